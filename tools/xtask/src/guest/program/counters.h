// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What the guest's programs share: their start, system calls, the guest's own performance counters by exception level, its
 * clock, and numbers as text. No C library: a few system calls are all that they need.
 *
 * Source of the numbers: the arm64 system call table, perf_event_open(2).
 */

typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned char u8;

enum { CLOSE = 57, READ = 63, WRITE = 64, EXIT = 93, CLOCK_GETTIME = 113, PERF_EVENT_OPEN = 241 };
enum { MONOTONIC = 1 };
enum { TYPE_HARDWARE = 0, INSTRUCTIONS = 1, SIZE_VERSION_0 = 64 };
enum { PINNED = 1 << 2, NO_USER = 1 << 4, NO_KERNEL = 1 << 5, NO_HYPERVISOR = 1 << 6 };

struct time {
	long seconds, nanoseconds;
};

/* Instructions at EL0, EL1 and EL2. */
struct counts {
	u64 user, kernel, hypervisor;
};

/* Files of the counters. The kernel counts EL2 only together with itself. */
struct counters {
	long user, kernel, kernel_and_hypervisor;
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

/* Ends the program with `code` if `result` is an error. */
static long or_fail(long result, int code)
{
	if (result < 0)
		for (;;)
			call(EXIT, code, 0, 0, 0, 0, 0);
	return result;
}

static long open_counter(u64 excluded)
{
	struct {
		u32 type, size;
		u64 config, period, sample, format, flags, rest[2];
	} event = { TYPE_HARDWARE, SIZE_VERSION_0, INSTRUCTIONS, 0, 0, 0, PINNED | excluded, { 0, 0 } };

	return call(PERF_EVENT_OPEN, (long)&event, -1, 0, -1, 0, 0);
}

static long counter(u64 excluded)
{
	return or_fail(open_counter(excluded), 2);
}

static struct counters open_counters(void)
{
	return (struct counters){ counter(NO_KERNEL | NO_HYPERVISOR), counter(NO_USER | NO_HYPERVISOR), counter(NO_USER) };
}

static u64 value(long file)
{
	u64 count = 0;

	or_fail(call(READ, file, (long)&count, sizeof(count), 0, 0, 0) == sizeof(count) ? 0 : -1, 3);
	return count;
}

/* The counts since the start. */
static struct counts count(const struct counters *counters)
{
	u64 user = value(counters->user), kernel = value(counters->kernel);

	return (struct counts){ user, kernel, value(counters->kernel_and_hypervisor) - kernel };
}

static char *decimal(char *end, u64 number)
{
	do
		*--end = '0' + number % 10;
	while (number /= 10);
	return end;
}

/* Prints a line of numbers. */
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

/* A program has this function, and gets the number of its arguments and the arguments. */
void start(long *stack);

asm(".globl _start\n_start: mov x29, #0\n mov x0, sp\n b start\n");
