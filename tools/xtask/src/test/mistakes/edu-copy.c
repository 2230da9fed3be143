// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A driver for QEMU's `edu` device that lets it copy a page a hundred times, with a mistake that drivers make: when it
 * loses patience with a transfer, it leaves without taking the buffer's mapping away.
 *
 * Source of the registers: QEMU's documentation, "EDU device".
 */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>

#define EDU_SOURCE 0x80
#define EDU_DESTINATION 0x88
#define EDU_COUNT 0x90
#define EDU_COMMAND 0x98
#define EDU_START 1
#define EDU_BUFFER 0x40000

#define TRANSFERS 100
#define HASTY 20

static int edu_copy(struct device *dev, void __iomem *registers, void *buffer, unsigned int patience_ms)
{
	dma_addr_t iova = dma_map_single(dev, buffer, 64, DMA_TO_DEVICE);
	unsigned int waited = 0;

	if (dma_mapping_error(dev, iova))
		return -ENOMEM;
	writeq(iova, registers + EDU_SOURCE);
	writeq(EDU_BUFFER, registers + EDU_DESTINATION);
	writeq(64, registers + EDU_COUNT);
	writeq(EDU_START, registers + EDU_COMMAND);
	while (readq(registers + EDU_COMMAND) & EDU_START) {
		if (waited++ >= patience_ms)
			return -ETIMEDOUT;	/* The mistake: the page stays mapped. */
		msleep(1);
	}
	dma_unmap_single(dev, iova, 64, DMA_TO_DEVICE);
	return 0;
}

static int edu_probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	void __iomem *registers;
	int error = pcim_enable_device(pci);
	int transfer;

	if (error)
		return error;
	registers = pcim_iomap(pci, 0, 0);
	if (!registers)
		return -ENOMEM;
	error = dma_set_mask_and_coherent(&pci->dev, DMA_BIT_MASK(32));
	if (error)
		return error;
	pci_set_master(pci);
	for (transfer = 0; transfer < TRANSFERS; transfer++) {
		void *buffer = (void *)get_zeroed_page(GFP_KERNEL);

		if (!buffer)
			return -ENOMEM;
		error = edu_copy(&pci->dev, registers, buffer, transfer == HASTY ? 2 : 5000);
		if (error)
			dev_info(&pci->dev, "transfer %d: %d, at %px\n", transfer, error, (void *)virt_to_phys(buffer));
		/* A device that has not ended keeps its buffer; leave it time to end. */
		if (error)
			msleep(200);
		free_page((unsigned long)buffer);
	}
	return 0;
}

static const struct pci_device_id edu_ids[] = { { PCI_DEVICE(0x1234, 0x11e8) }, { } };
MODULE_DEVICE_TABLE(pci, edu_ids);

static struct pci_driver edu_driver = { .name = "edu-copy", .id_table = edu_ids, .probe = edu_probe };
module_pci_driver(edu_driver);

MODULE_DESCRIPTION("Copies a page by QEMU's edu device, and forgets a mapping");
/* The kernel's word for what works with its GPL symbols; the licence is the one above. */
MODULE_LICENSE("Dual MIT/GPL");
