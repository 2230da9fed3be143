// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Measures a CPU's loads and stores of a page that is mapped for a device more than once.
 *
 * Each line of /sys/kernel/debug/oche_access_cost is a case and what its access costs in addition to the same access of the
 * same page before it was mapped. The counter is the CPU's own, which an instruction advances by one. Interrupts are off.
 */
#include <linux/debugfs.h>
#include <linux/dma-mapping.h>
#include <linux/gfp.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/seq_file.h>

#define ACCESSES 64
#define MAX_MAPPINGS 3

struct access {
	const char *name;
	enum dma_data_direction direction;
	void (*run)(void *at);
};

static struct pci_dev *edu;
static struct dentry *file;

static u64 read_counter(void)
{
	u64 ticks;

	asm volatile("isb\n mrs %0, cntvct_el0\n isb" : "=r"(ticks) : : "memory");
	return ticks;
}

#define ACCESS(function, instruction)                                                                             \
	static void function(void *at)                                                                            \
	{                                                                                                         \
		unsigned long left = ACCESSES;                                                                    \
                                                                                                                  \
		asm volatile("1: " instruction "\n sub %1, %1, #1\n cbnz %1, 1b"                                  \
			     : "+r"(at), "+r"(left) : : "x4", "x5", "memory");                                    \
	}

/* The first two have a syndrome that describes the access; the others, as in the kernel's copy_to_user, have none. */
ACCESS(load, "ldr x4, [%0]\n add %0, %0, #16")
ACCESS(store, "str x4, [%0]\n add %0, %0, #16")
ACCESS(load_pair, "ldp x4, x5, [%0], #16")
ACCESS(store_pair, "stp x4, x5, [%0], #16")

static const struct access accesses[] = {
	{ "ldr from-device", DMA_FROM_DEVICE, load },	    { "str from-device", DMA_FROM_DEVICE, store },
	{ "ldp from-device", DMA_FROM_DEVICE, load_pair },  { "stp from-device", DMA_FROM_DEVICE, store_pair },
	{ "str to-device", DMA_TO_DEVICE, store },	    { "stp to-device", DMA_TO_DEVICE, store_pair },
};

static u64 cost(const struct access *access, void *page)
{
	unsigned long flags;
	u64 begin, end;

	local_irq_save(flags);
	begin = read_counter();
	access->run(page);
	end = read_counter();
	local_irq_restore(flags);
	return end - begin;
}

static int measure(struct seq_file *out, const struct access *access, int mappings)
{
	void *page = (void *)__get_free_page(GFP_KERNEL | __GFP_ZERO);
	dma_addr_t iovas[MAX_MAPPINGS];
	int mapped = 0, error = 0;
	u64 plain, trapped;

	if (!page)
		return -ENOMEM;
	plain = cost(access, page);
	for (; mapped < mappings; mapped++) {
		iovas[mapped] = dma_map_single(&edu->dev, page, PAGE_SIZE, access->direction);
		error = dma_mapping_error(&edu->dev, iovas[mapped]);
		if (error)
			break;
	}
	trapped = cost(access, page);
	while (mapped--)
		dma_unmap_single(&edu->dev, iovas[mapped], PAGE_SIZE, access->direction);
	free_page((unsigned long)page);
	seq_printf(out, "%s %d copies %llu\n", access->name, mappings, (trapped - plain) / ACCESSES);
	return error;
}

static int oche_access_cost_show(struct seq_file *out, void *unused)
{
	int mappings, error = 0;
	size_t i;

	for (mappings = 2; mappings <= MAX_MAPPINGS; mappings++)
		for (i = 0; i < ARRAY_SIZE(accesses) && !error; i++)
			error = measure(out, &accesses[i], mappings);
	return error;
}
DEFINE_SHOW_ATTRIBUTE(oche_access_cost);

static int __init cost_init(void)
{
	edu = pci_get_device(0x1234, 0x11e8, NULL);
	if (!edu)
		return -ENODEV;
	file = debugfs_create_file("oche_access_cost", 0400, NULL, NULL, &oche_access_cost_fops);
	return 0;
}

static void __exit cost_exit(void)
{
	debugfs_remove(file);
	pci_dev_put(edu);
}

module_init(cost_init);
module_exit(cost_exit);

MODULE_DESCRIPTION("Measures accesses to pages that are mapped more than once");
/* The kernel's word for what works with its GPL symbols; the licence is the one above. */
MODULE_LICENSE("Dual MIT/GPL");
