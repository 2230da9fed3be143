// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Measures dma_map_single and dma_unmap_single on buffers that were never mapped before.
 *
 * The kernel's own benchmark maps one buffer again and again. Here each turn has a buffer of its own. All are kept until
 * the module goes, because the allocator would hand out a page that was freed last again at once.
 *
 * The request is the benchmark's own, at /sys/kernel/debug/oche_map_cost, so that one program asks both. Its answer is in
 * nanoseconds, as that of the benchmark with its clock 100 times as fast.
 */
#include <linux/debugfs.h>
#include <linux/dma-mapping.h>
#include <linux/list.h>
#include <linux/map_benchmark.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#define TURNS 256

/* As the benchmark's: it counts reads of the clock, four a turn. */
static unsigned long clock_reads;
module_param(clock_reads, ulong, 0400);

struct buffer {
	struct list_head list;
	void *bytes;
	size_t size;
};

static LIST_HEAD(buffers);
static struct pci_dev *edu;
static struct dentry *file;

static ktime_t read_clock(void)
{
	clock_reads++;
	return ktime_get();
}

static struct buffer *allocate(size_t size)
{
	struct buffer *buffer = kmalloc(sizeof(*buffer), GFP_KERNEL);

	if (!buffer)
		return NULL;
	buffer->size = size;
	buffer->bytes = alloc_pages_exact(size, GFP_KERNEL);
	if (!buffer->bytes) {
		kfree(buffer);
		return NULL;
	}
	list_add(&buffer->list, &buffers);
	return buffer;
}

static int turn(size_t size, enum dma_data_direction direction, u64 *map_ns, u64 *unmap_ns)
{
	struct buffer *buffer = allocate(size);
	ktime_t begin, end;
	dma_addr_t iova;

	if (!buffer)
		return -ENOMEM;
	if (direction != DMA_FROM_DEVICE)
		memset(buffer->bytes, 0x5a, size);
	begin = read_clock();
	iova = dma_map_single(&edu->dev, buffer->bytes, size, direction);
	if (dma_mapping_error(&edu->dev, iova))
		return -EIO;
	end = read_clock();
	*map_ns += ktime_to_ns(ktime_sub(end, begin));
	begin = read_clock();
	dma_unmap_single(&edu->dev, iova, size, direction);
	end = read_clock();
	*unmap_ns += ktime_to_ns(ktime_sub(end, begin));
	return 0;
}

static long cost_ioctl(struct file *opened, unsigned int command, unsigned long argument)
{
	static const enum dma_data_direction directions[] = {
		[DMA_MAP_BIDIRECTIONAL] = DMA_BIDIRECTIONAL,
		[DMA_MAP_TO_DEVICE] = DMA_TO_DEVICE,
		[DMA_MAP_FROM_DEVICE] = DMA_FROM_DEVICE,
	};
	void __user *request = (void __user *)argument;
	struct map_benchmark asked;
	u64 map_ns = 0, unmap_ns = 0;
	int i, error;

	if (command != DMA_MAP_BENCHMARK)
		return -EINVAL;
	if (copy_from_user(&asked, request, sizeof(asked)))
		return -EFAULT;
	if (asked.granule < 1 || asked.granule > 1024 || asked.dma_dir >= ARRAY_SIZE(directions))
		return -EINVAL;
	error = dma_set_mask(&edu->dev, DMA_BIT_MASK(asked.dma_bits));
	for (i = 0; i < TURNS && !error; i++)
		error = turn(asked.granule * PAGE_SIZE, directions[asked.dma_dir], &map_ns, &unmap_ns);
	if (error)
		return error;
	asked.avg_map_100ns = div_u64(map_ns, TURNS);
	asked.avg_unmap_100ns = div_u64(unmap_ns, TURNS);
	return copy_to_user(request, &asked, sizeof(asked)) ? -EFAULT : 0;
}

static const struct file_operations cost_operations = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.unlocked_ioctl = cost_ioctl,
};

static int __init cost_init(void)
{
	edu = pci_get_device(0x1234, 0x11e8, NULL);
	if (!edu)
		return -ENODEV;
	file = debugfs_create_file("oche_map_cost", 0600, NULL, NULL, &cost_operations);
	return 0;
}

static void __exit cost_exit(void)
{
	struct buffer *buffer, *next;

	debugfs_remove(file);
	list_for_each_entry_safe(buffer, next, &buffers, list) {
		free_pages_exact(buffer->bytes, buffer->size);
		kfree(buffer);
	}
	pci_dev_put(edu);
}

module_init(cost_init);
module_exit(cost_exit);

MODULE_DESCRIPTION("Measures DMA maps and unmaps of fresh pages");
/* The kernel's word for what works with its GPL symbols; the licence is the one above. */
MODULE_LICENSE("Dual MIT/GPL");
