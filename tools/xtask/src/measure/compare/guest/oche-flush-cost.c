// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Measures flushes of a device's translation tables beside few and beside many tables that stay as they are.
 *
 * Each line of /sys/kernel/debug/oche_flush_cost is a case, with so many other leaf tables that map something, and what it
 * costs at EL2. The kernel hands out IOVAs from the top of 32 bits; what is mapped here lies far below, a leaf table for
 * each 2 MiB.
 */
#include <linux/debugfs.h>
#include <linux/dma-mapping.h>
#include <linux/gfp.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/perf_event.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>

#define TURNS 256
/* Turns before the measurement: more than Oche compares a table for that does not change. */
#define FIRST_TURNS 32
#define FEW_TABLES 8
#define MANY_TABLES 512
#define FIRST_TABLE SZ_1G
#define PERMISSION_PAGE (FIRST_TABLE - SZ_2M)
#define READ_WRITE (IOMMU_READ | IOMMU_WRITE)

static struct pci_dev *edu;
static struct iommu_domain *domain;
static struct dentry *file;
/* The kernel counts EL2 only together with itself. */
static struct perf_event *kernel, *kernel_and_hypervisor;
/* A frame for each of the other tables, and how many of these map theirs. */
static void *frames[MANY_TABLES];
static int live;
static void *page;

static u64 hypervisor_instructions(void)
{
	u64 enabled, running, own = perf_event_read_value(kernel, &enabled, &running);

	return perf_event_read_value(kernel_and_hypervisor, &enabled, &running) - own;
}

static struct perf_event *count_instructions(bool is_hypervisor_left_out)
{
	struct perf_event_attr attributes = {
		.type = PERF_TYPE_HARDWARE,
		.size = sizeof(attributes),
		.config = PERF_COUNT_HW_INSTRUCTIONS,
		.pinned = 1,
		.exclude_user = 1,
		.exclude_hv = is_hypervisor_left_out,
	};

	return perf_event_create_kernel_counter(&attributes, 0, NULL, NULL, NULL);
}

/* Maps frames until so many other tables are live: whole ones, which stay where they are. */
static int make_live(int count)
{
	for (; live < count; live++) {
		int error;

		frames[live] = alloc_pages_exact(SZ_16K, GFP_KERNEL);
		if (!frames[live])
			return -ENOMEM;
		error = iommu_map(domain, FIRST_TABLE + live * SZ_2M, virt_to_phys(frames[live]), SZ_16K, READ_WRITE);
		if (error) {
			free_pages_exact(frames[live], SZ_16K);
			return error;
		}
	}
	return 0;
}

static void unmap_all(void)
{
	while (live) {
		live--;
		iommu_unmap(domain, FIRST_TABLE + live * SZ_2M, SZ_16K);
		free_pages_exact(frames[live], SZ_16K);
	}
}

/* One flush: the kernel's driver flushes at the map, and at an unmap only if it is asked to. */
static int change_permission(int protection)
{
	struct iommu_iotlb_gather gather;

	iommu_iotlb_gather_init(&gather);
	if (iommu_unmap_fast(domain, PERMISSION_PAGE, PAGE_SIZE, &gather) != PAGE_SIZE)
		return -EIO;
	return iommu_map(domain, PERMISSION_PAGE, virt_to_phys(page), PAGE_SIZE, protection);
}

/* Two flushes, each of one entry, of a page that stays mapped. */
static int change_permissions(void)
{
	int error = change_permission(IOMMU_READ);

	return error ? error : change_permission(READ_WRITE);
}

/* Two flushes as well. */
static int map_and_unmap(void)
{
	dma_addr_t iova = dma_map_single(&edu->dev, page, PAGE_SIZE, DMA_BIDIRECTIONAL);

	if (dma_mapping_error(&edu->dev, iova))
		return -EIO;
	dma_unmap_single(&edu->dev, iova, PAGE_SIZE, DMA_BIDIRECTIONAL);
	return 0;
}

static int measure(struct seq_file *out, const char *name, int (*turn)(void), int divisor)
{
	int i, error = 0;
	u64 begin;

	for (i = 0; i < FIRST_TURNS && !error; i++)
		error = turn();
	begin = hypervisor_instructions();
	for (i = 0; i < TURNS && !error; i++)
		error = turn();
	seq_printf(out, "%s, %d tables %llu\n", name, live, (hypervisor_instructions() - begin) / (TURNS * divisor));
	return error;
}

static int measure_beside(struct seq_file *out, int tables)
{
	int error = make_live(tables);

	if (!error)
		error = measure(out, "4 KiB mapped and unmapped", map_and_unmap, 1);
	if (!error)
		error = iommu_map(domain, PERMISSION_PAGE, virt_to_phys(page), PAGE_SIZE, READ_WRITE);
	if (!error) {
		error = measure(out, "flush with one changed entry", change_permissions, 2);
		iommu_unmap(domain, PERMISSION_PAGE, PAGE_SIZE);
	}
	return error;
}

static int oche_flush_cost_show(struct seq_file *out, void *unused)
{
	int error;

	domain = iommu_get_domain_for_dev(&edu->dev);
	page = (void *)__get_free_page(GFP_KERNEL | __GFP_ZERO);
	if (!domain || !page)
		return -ENODEV;
	error = measure_beside(out, FEW_TABLES);
	if (!error)
		error = measure_beside(out, MANY_TABLES);
	unmap_all();
	free_page((unsigned long)page);
	return error;
}
DEFINE_SHOW_ATTRIBUTE(oche_flush_cost);

static int __init cost_init(void)
{
	edu = pci_get_device(0x1234, 0x11e8, NULL);
	if (!edu)
		return -ENODEV;
	kernel = count_instructions(true);
	kernel_and_hypervisor = count_instructions(false);
	if (IS_ERR(kernel) || IS_ERR(kernel_and_hypervisor))
		return -ENODEV;
	file = debugfs_create_file("oche_flush_cost", 0400, NULL, NULL, &oche_flush_cost_fops);
	return 0;
}

static void __exit cost_exit(void)
{
	debugfs_remove(file);
	perf_event_release_kernel(kernel_and_hypervisor);
	perf_event_release_kernel(kernel);
	pci_dev_put(edu);
}

module_init(cost_init);
module_exit(cost_exit);

MODULE_DESCRIPTION("Measures flushes beside few and many live translation tables");
/* The kernel's word for what works with its GPL symbols; the licence is the one above. */
MODULE_LICENSE("Dual MIT/GPL");
