// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A bell for QEMU's user: its pvpanic device. Where QEMU runs with `-action panic=pause`, the machine stops when it is rung.
 *
 * Source of the numbers: the arm64 system call table; QEMU's documentation, "PVPANIC DEVICE".
 */

enum { OPENAT = 56, MMAP = 222 };
enum { AT_CWD = -100, READ_WRITE = 2, SYNC = 04010000, MAPPED_READ_WRITE = 3, MAPPED_SHARED = 1 };
enum { PAGE = 4096, PANICKED = 1 };

static u64 number(const char *text)
{
	u64 result = 0;

	for (; *text >= '0' && *text <= '9'; text++)
		result = result * 10 + (*text - '0');
	return result;
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
