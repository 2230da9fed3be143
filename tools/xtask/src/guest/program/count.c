// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Reads a line, prints `NANOSECONDS USER KERNEL HYPERVISOR`, and again until its input ends: the time since the kernel's start,
 * and the instructions of the guest's first CPU by exception level since the program's start. These stay 0 where the CPU has no
 * counter of instructions: QEMU's has one only with -icount.
 *
 *     count BELL
 *
 * BELL is the physical address of the bell, or 0: it is rung before each reading.
 */

#include "counters.h"
#include "bell.h"

void start(long *stack)
{
	char **arguments = (char **)(stack + 1);
	volatile u8 *bell = map_bell(*stack == 2 ? number(arguments[1]) : or_fail(-1, 1));
	struct counters counters = { -1, -1, -1 };
	long probe = open_counter(0);
	int has_counters = probe >= 0;
	char line[64];

	if (has_counters) {
		call(CLOSE, probe, 0, 0, 0, 0, 0);
		counters = open_counters();
	}
	while (call(READ, 0, (long)line, sizeof(line), 0, 0, 0) > 0) {
		struct counts now = { 0, 0, 0 };
		struct time time;

		ring(bell);
		or_fail(call(CLOCK_GETTIME, MONOTONIC, (long)&time, 0, 0, 0, 0), 8);
		if (has_counters)
			now = count(&counters);
		print((u64[]){ time.seconds * 1000000000UL + time.nanoseconds, now.user, now.kernel, now.hypervisor }, 4);
	}
	call(EXIT, 0, 0, 0, 0, 0, 0);
}
