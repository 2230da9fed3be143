// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Drives the simulated M1's DMA engines by the kernel's DMA API: one device, behind one DART or two that share a table.
 *
 * Each engine copies between two IOVAs. Registers, 32 bits each: 0 order (1 copy, 2 power cycle of the DART), 4 stream,
 * 8 source, 12 target, 16 bytes, 20 result (1 done, 2 refused).
 */
#include <linux/dma-mapping.h>
#include <linux/iopoll.h>
#include <linux/module.h>
#include <linux/of.h>
#include <linux/platform_device.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#define MOST_ENGINES 2
#define PAGES 16
#define RING_BYTES (4 * PAGE_SIZE)
/* Long enough for a laptop that emulates it all. */
#define PATIENCE_US (20 * USEC_PER_SEC)

struct engine {
	void __iomem *registers;
	u32 stream;
};

struct board_dma {
	struct device *device;
	struct engine engines[MOST_ENGINES];
	unsigned int count;
	/* A long-lived coherent buffer, as a ring of descriptors is. */
	u32 *ring;
	dma_addr_t ring_iova;
	u64 bytes;
	unsigned int copies;
};

static int order(struct engine *engine, u32 what)
{
	u32 result;

	writel(0, engine->registers + 20);
	writel(what, engine->registers);
	if (readl_poll_timeout(engine->registers + 20, result, result, 10, PATIENCE_US))
		return -ETIMEDOUT;
	return result == 1 ? 0 : -EFAULT;
}

static int copy(struct board_dma *board, unsigned int number, dma_addr_t from, dma_addr_t to, u32 bytes)
{
	struct engine *engine = &board->engines[number % board->count];
	int error;

	writel(engine->stream, engine->registers + 4);
	writel(lower_32_bits(from), engine->registers + 8);
	writel(lower_32_bits(to), engine->registers + 12);
	writel(bytes, engine->registers + 16);
	error = order(engine, 1);
	if (!error) {
		board->bytes += bytes;
		board->copies++;
	}
	return error;
}

static u32 word(u32 seed, unsigned int index)
{
	return (seed + index) * 2654435761u;
}

static void fill(u32 *at, u32 seed, size_t bytes)
{
	unsigned int index;

	for (index = 0; index < bytes / 4; index++)
		at[index] = word(seed, index);
}

static bool is_filled(const u32 *at, u32 seed, size_t bytes)
{
	unsigned int index;

	for (index = 0; index < bytes / 4; index++)
		if (READ_ONCE(at[index]) != word(seed, index))
			return false;
	return true;
}

static void free_pages_of(struct page **pages, unsigned int count)
{
	while (count--)
		if (pages[count])
			__free_page(pages[count]);
}

/* Single pages from everywhere, one scatter list each way, one copy over all of them. */
static int scattered(struct board_dma *board)
{
	struct page *pages[4 * PAGES] = {};
	struct scatterlist from[PAGES], to[PAGES];
	unsigned int index;
	int error = -ENOMEM;

	for (index = 0; index < ARRAY_SIZE(pages); index++) {
		pages[index] = alloc_page(GFP_KERNEL | __GFP_ZERO);
		if (!pages[index])
			goto free;
	}
	sg_init_table(from, PAGES);
	sg_init_table(to, PAGES);
	for (index = 0; index < PAGES; index++) {
		fill(page_address(pages[4 * index]), index, PAGE_SIZE);
		sg_set_page(&from[index], pages[4 * index], PAGE_SIZE, 0);
		/* Backwards, so that no four of them lie in order. */
		sg_set_page(&to[index], pages[4 * (PAGES - index) - 1], PAGE_SIZE, 0);
	}
	error = -EIO;
	if (dma_map_sg(board->device, from, PAGES, DMA_TO_DEVICE) != 1)
		goto free;
	if (dma_map_sg(board->device, to, PAGES, DMA_FROM_DEVICE) == 1) {
		error = copy(board, 0, sg_dma_address(from), sg_dma_address(to), PAGES * PAGE_SIZE);
		dma_unmap_sg(board->device, to, PAGES, DMA_FROM_DEVICE);
	}
	dma_unmap_sg(board->device, from, PAGES, DMA_TO_DEVICE);
	for (index = 0; !error && index < PAGES; index++)
		if (!is_filled(page_address(pages[4 * (PAGES - index) - 1]), index, PAGE_SIZE))
			error = -EILSEQ;
free:
	free_pages_of(pages, ARRAY_SIZE(pages));
	return error;
}

/* Two buffers in one page, as a network driver has them: one is read while the other is written. */
static int halves(struct board_dma *board)
{
	const size_t half = PAGE_SIZE / 2;
	u32 *page = (u32 *)get_zeroed_page(GFP_KERNEL);
	dma_addr_t from, to;
	int error = -EIO;

	if (!page)
		return -ENOMEM;
	fill(page, 77, half);
	from = dma_map_single(board->device, page, half, DMA_TO_DEVICE);
	if (dma_mapping_error(board->device, from))
		goto free;
	to = dma_map_single(board->device, (u8 *)page + half, half, DMA_FROM_DEVICE);
	if (!dma_mapping_error(board->device, to)) {
		error = copy(board, 1, from, to, half);
		dma_unmap_single(board->device, to, half, DMA_FROM_DEVICE);
	}
	dma_unmap_single(board->device, from, half, DMA_TO_DEVICE);
	if (!error && !(is_filled(page, 77, half) && is_filled(page + half / 4, 77, half)))
		error = -EILSEQ;
free:
	free_page((unsigned long)page);
	return error;
}

/* The ring stays mapped: what a CPU stores the device reads, and the other way round, without a call between. */
static int ring(struct board_dma *board, u32 seed)
{
	const size_t half = RING_BYTES / 2;
	unsigned int round;
	int error = 0;

	for (round = 0; !error && round < 4; round++) {
		fill(board->ring, seed + round, half);
		error = copy(board, round, board->ring_iova, board->ring_iova + half, half);
		if (!error && !is_filled(board->ring + half / 4, seed + round, half))
			error = -EILSEQ;
	}
	return error;
}

/* What is unmapped must be refused: the DART reports it to the driver, which logs it. */
static int unmapped(struct board_dma *board)
{
	u32 *page = (u32 *)get_zeroed_page(GFP_KERNEL);
	dma_addr_t to;
	int error = 0;

	if (!page)
		return -ENOMEM;
	fill(board->ring, 5, PAGE_SIZE);
	to = dma_map_single(board->device, page, PAGE_SIZE, DMA_FROM_DEVICE);
	if (dma_mapping_error(board->device, to)) {
		free_page((unsigned long)page);
		return -EIO;
	}
	dma_unmap_single(board->device, to, PAGE_SIZE, DMA_FROM_DEVICE);
	/*
	 * A DART keeps its first fault until its interrupt is handled. This access may fault or not, depending on what
	 * is mapped beside it; 0x10000000 is behind the granule of anything that is mapped. Either may come first.
	 */
	dev_info(board->device, "refused at %pad or 0x10000000\n", &to);
	copy(board, 0, board->ring_iova, to, PAGE_SIZE);
	if (memchr_inv(page, 0, PAGE_SIZE))
		error = -EPERM;
	if (copy(board, 0, board->ring_iova, 0x10000000, PAGE_SIZE) != -EFAULT)
		error = -EPERM;
	free_page((unsigned long)page);
	return error;
}

static int report(struct board_dma *board, const char *what, int error)
{
	if (error)
		dev_err(board->device, "%s FAILED: %d\n", what, error);
	else
		dev_info(board->device, "%s ok\n", what);
	return error;
}

static int board_dma_probe(struct platform_device *platform)
{
	struct device *device = &platform->dev;
	struct board_dma *board = devm_kzalloc(device, sizeof(*board), GFP_KERNEL);
	unsigned int index;

	if (!board)
		return -ENOMEM;
	board->device = device;
	platform_set_drvdata(platform, board);
	for (index = 0; index < MOST_ENGINES && platform_get_resource(platform, IORESOURCE_MEM, index); index++) {
		struct engine *engine = &board->engines[index];

		engine->registers = devm_platform_ioremap_resource(platform, index);
		if (IS_ERR(engine->registers))
			return PTR_ERR(engine->registers);
		if (of_property_read_u32_index(device->of_node, "oche,streams", index, &engine->stream))
			return -EINVAL;
		board->count++;
	}
	if (!board->count)
		return -EINVAL;
	dma_set_max_seg_size(device, PAGES * PAGE_SIZE);
	board->ring = dmam_alloc_coherent(device, RING_BYTES, &board->ring_iova, GFP_KERNEL);
	if (!board->ring)
		return -ENOMEM;
	if (report(board, "scattered pages, one list", scattered(board)) ||
	    report(board, "two buffers in a page", halves(board)) ||
	    report(board, "a ring that stays mapped", ring(board, 1000)) ||
	    report(board, "what is unmapped is refused", unmapped(board)))
		return -EIO;
	dev_info(device, "%llu bytes in %u copies\n", board->bytes, board->copies);
	return 0;
}

/* Behind the DART's own suspend: its power goes, and with it all that it knew. */
static int board_dma_suspend_noirq(struct device *device)
{
	struct board_dma *board = dev_get_drvdata(device);
	unsigned int index;
	int error = 0;

	for (index = 0; index < board->count; index++)
		error = error ?: order(&board->engines[index], 2);
	return error;
}

static int board_dma_resume(struct device *device)
{
	struct board_dma *board = dev_get_drvdata(device);

	report(board, "the ring after resume", ring(board, 2000));
	return 0;
}

static const struct dev_pm_ops board_dma_pm = {
	.suspend_noirq = board_dma_suspend_noirq,
	.resume = board_dma_resume,
};

static const struct of_device_id board_dma_match[] = {
	{ .compatible = "oche,board-dma" },
	{}
};
MODULE_DEVICE_TABLE(of, board_dma_match);

static struct platform_driver board_dma_driver = {
	.driver = {
		.name = "board-dma",
		.of_match_table = board_dma_match,
		.pm = &board_dma_pm,
	},
	.probe = board_dma_probe,
};
module_platform_driver(board_dma_driver);

MODULE_DESCRIPTION("Drives the DMA engines of Oche's simulated M1");
MODULE_LICENSE("Dual MIT/GPL");
