// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Runs one case of a benchmark of DMA maps, and prints what it cost.
 *
 *     map-cost FILE PAGES DIRECTION SECOND BELL
 *
 * FILE takes the kernel's request DMA_MAP_BENCHMARK, DIRECTION is its number of a direction. SECOND is when to begin, in
 * seconds since the start of the kernel. BELL is the physical address of the bell, or 0: it is rung before and after, so that QEMU stops and its user reads counters while no instruction is executed. Where QEMU stops, it may let time
 * pass until the next timer is due; beginning at a time that was set beforehand hides that from the measurement.
 *
 * Prints `MAP UNMAP USER KERNEL HYPERVISOR`: nanoseconds of a map and of an unmap, and the instructions of the whole run by
 * exception level.
 *
 * Source of the numbers: the arm64 system call table, the kernel's linux/map_benchmark.h.
 */

#include "counters.h"
#include "bell.h"

enum { IOCTL = 29, CLOCK_NANOSLEEP = 115 };
enum { ABSOLUTE = 1 };

struct request {
	u64 map, map_deviation, unmap, unmap_deviation;
	u32 threads, seconds, node, dma_bits, direction, transmission_ns, pages;
	u8 rest[76];
};

/* _IOWR('d', 1, struct map_benchmark) */
#define DMA_MAP_BENCHMARK (3UL << 30 | sizeof(struct request) << 16 | 'd' << 8 | 1)

static void wait_until(long second)
{
	struct time now, begin = { second, 0 };

	or_fail(call(CLOCK_GETTIME, MONOTONIC, (long)&now, 0, 0, 0, 0), 8);
	or_fail(now.seconds < second ? 0 : -1, 9);
	or_fail(call(CLOCK_NANOSLEEP, MONOTONIC, ABSOLUTE, (long)&begin, 0, 0, 0), 8);
}

static void measure(const char *path, u64 pages, u64 direction, long second, volatile u8 *bell)
{
	struct request request = { .threads = 1, .seconds = 1, .node = -1, .dma_bits = 32 };
	struct counters counters = open_counters();
	long file = or_fail(call(OPENAT, AT_CWD, (long)path, READ_WRITE, 0, 0, 0), 6);
	struct counts before, after;

	request.direction = direction;
	request.pages = pages;
	ring(bell);
	wait_until(second);
	before = count(&counters);
	or_fail(call(IOCTL, file, DMA_MAP_BENCHMARK, (long)&request, 0, 0, 0), 7);
	after = count(&counters);
	ring(bell);
	print((u64[]){ request.map, request.unmap, after.user - before.user, after.kernel - before.kernel,
		       after.hypervisor - before.hypervisor }, 5);
}

void start(long *stack)
{
	char **arguments = (char **)(stack + 1);

	if (*stack != 6)
		or_fail(-1, 1);
	measure(arguments[1], number(arguments[2]), number(arguments[3]), number(arguments[4]),
		map_bell(number(arguments[5])));
	call(EXIT, 0, 0, 0, 0, 0, 0);
}
