// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Counts the instructions of the guest's only CPU by exception level. Reads a line, prints `USER KERNEL HYPERVISOR` since the
 * start, and again until its input ends.
 */

#include "counters.h"

void _start(void)
{
	struct counters counters = open_counters();
	char line[64];

	while (call(READ, 0, (long)line, sizeof(line), 0, 0, 0) > 0) {
		struct counts now = count(&counters);

		print((u64[]){ now.user, now.kernel, now.hypervisor }, 3);
	}
	call(EXIT, 0, 0, 0, 0, 0, 0);
}
