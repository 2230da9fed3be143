// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Runs one case of a benchmark of DMA maps, and prints what it cost.
 *
 *     map-cost FILE PAGES DIRECTION SECOND BELL
 *
 * FILE takes the kernel's request DMA_MAP_BENCHMARK, DIRECTION is its number of a direction. SECOND is when to begin, in
 * seconds since the start of the kernel. BELL is the physical address of QEMU's pvpanic device, or 0: it is rung before and
 * after, so that QEMU stops and its user reads counters while no instruction is executed. Where QEMU stops, it may let time
 * pass until the next timer is due; beginning at a time that was set beforehand hides that from the measurement.
 *
 * Prints `MAP UNMAP USER KERNEL HYPERVISOR`: nanoseconds of a map and of an unmap, and the instructions of the whole run by
 * exception level.
 *
 * No C library: a few system calls are all that it needs. Source of the numbers: the arm64 system call table,
 * perf_event_open(2), the kernel's linux/map_benchmark.h; QEMU's documentation, "PVPANIC DEVICE".
 */

typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned char u8;

enum { IOCTL = 29, OPENAT = 56, READ = 63, WRITE = 64, EXIT = 93, CLOCK_GETTIME = 113, CLOCK_NANOSLEEP = 115 };
enum { MMAP = 222, PERF_EVENT_OPEN = 241 };
enum { AT_CWD = -100, READ_WRITE = 2, SYNC = 04010000, MAPPED_READ_WRITE = 3, MAPPED_SHARED = 1 };
enum { TYPE_HARDWARE = 0, INSTRUCTIONS = 1, SIZE_VERSION_0 = 64 };
enum { PINNED = 1 << 2, NO_USER = 1 << 4, NO_KERNEL = 1 << 5, NO_HYPERVISOR = 1 << 6 };
enum { PAGE = 4096, PANICKED = 1 };
enum { MONOTONIC = 1, ABSOLUTE = 1 };

struct request {
	u64 map, map_deviation, unmap, unmap_deviation;
	u32 threads, seconds, node, dma_bits, direction, transmission_ns, pages;
	u8 rest[76];
};

/* _IOWR('d', 1, struct map_benchmark) */
#define DMA_MAP_BENCHMARK (3UL << 30 | sizeof(struct request) << 16 | 'd' << 8 | 1)

struct time {
	long seconds, nanoseconds;
};

struct counts {
	u64 user, kernel, kernel_and_hypervisor;
};

static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long x8 asm("x8") = number;
	register long x0 asm("x0") = a;
	register long x1 asm("x1") = b;
	register long x2 asm("x2") = c;
	register long x3 asm("x3") = d;
	register long x4 asm("x4") = e;
	register long x5 asm("x5") = f;

	asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}

static long or_fail(long result, int code)
{
	if (result < 0)
		for (;;)
			call(EXIT, code, 0, 0, 0, 0, 0);
	return result;
}

static long counter(u64 excluded)
{
	struct {
		u32 type, size;
		u64 config, period, sample, format, flags, rest[2];
	} event = { TYPE_HARDWARE, SIZE_VERSION_0, INSTRUCTIONS, 0, 0, 0, PINNED | excluded, { 0, 0 } };

	return or_fail(call(PERF_EVENT_OPEN, (long)&event, -1, 0, -1, 0, 0), 2);
}

static u64 value(long file)
{
	u64 count = 0;

	or_fail(call(READ, file, (long)&count, sizeof(count), 0, 0, 0) == sizeof(count) ? 0 : -1, 3);
	return count;
}

static u64 number(const char *text)
{
	u64 result = 0;

	for (; *text >= '0' && *text <= '9'; text++)
		result = result * 10 + (*text - '0');
	return result;
}

static char *decimal(char *end, u64 number)
{
	do
		*--end = '0' + number % 10;
	while (number /= 10);
	return end;
}

static void print(const u64 *numbers, int count)
{
	char line[128], *end = line + sizeof(line), *at = end;

	*--at = '\n';
	while (count--) {
		at = decimal(at, numbers[count]);
		if (count)
			*--at = ' ';
	}
	call(WRITE, 1, (long)at, end - at, 0, 0, 0);
}

static volatile u8 *map_bell(u64 address)
{
	long file, mapped;

	if (!address)
		return 0;
	file = or_fail(call(OPENAT, AT_CWD, (long)"/dev/mem", READ_WRITE | SYNC, 0, 0, 0), 4);
	mapped = call(MMAP, 0, PAGE, MAPPED_READ_WRITE, MAPPED_SHARED, file, address & ~(PAGE - 1UL));
	or_fail(mapped, 5);
	return (volatile u8 *)mapped + address % PAGE;
}

static void ring(volatile u8 *bell)
{
	if (bell)
		*bell = PANICKED;
}

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
	long user = counter(NO_KERNEL | NO_HYPERVISOR), kernel = counter(NO_USER | NO_HYPERVISOR);
	/* The kernel counts EL2 only together with itself. */
	long both = counter(NO_USER);
	long file = or_fail(call(OPENAT, AT_CWD, (long)path, READ_WRITE, 0, 0, 0), 6);
	struct counts before, after;

	request.direction = direction;
	request.pages = pages;
	ring(bell);
	wait_until(second);
	before = (struct counts){ value(user), value(kernel), value(both) };
	or_fail(call(IOCTL, file, DMA_MAP_BENCHMARK, (long)&request, 0, 0, 0), 7);
	after = (struct counts){ value(user), value(kernel), value(both) };
	ring(bell);
	u64 kernel_count = after.kernel - before.kernel;
	u64 both_count = after.kernel_and_hypervisor - before.kernel_and_hypervisor;

	print((u64[]){ request.map, request.unmap, after.user - before.user, kernel_count, both_count - kernel_count }, 5);
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

asm(".globl _start\n_start: mov x29, #0\n mov x0, sp\n b start\n");
