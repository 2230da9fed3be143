// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 *     linear-packets INTERFACE
 *
 * Has a network interface send each packet out of one buffer: no segmentation by the device, no scattered buffers. The buffer
 * is then within a page.
 *
 * Source of the numbers: the arm64 system call table, netdevice(7), the kernel's linux/ethtool.h and linux/sockios.h.
 */

#include "counters.h"

enum { IOCTL = 29, SOCKET = 198 };
enum { INTERNET = 2, DATAGRAM = 2, SIOCETHTOOL = 0x8946 };
enum { ETHTOOL_SSG = 0x19, ETHTOOL_STSO = 0x1f };

struct value {
	u32 command, value;
};

struct request {
	char interface[16];
	struct value *value;
	u8 rest[16];
};

static void turn_off(const char *interface, u32 command)
{
	struct value value = { command, 0 };
	struct request request = { .value = &value };
	long file = or_fail(call(SOCKET, INTERNET, DATAGRAM, 0, 0, 0, 0), 2);

	for (int at = 0; at < 15 && interface[at]; at++)
		request.interface[at] = interface[at];
	or_fail(call(IOCTL, file, SIOCETHTOOL, (long)&request, 0, 0, 0), 3);
}

void start(long *stack)
{
	char **arguments = (char **)(stack + 1);

	if (*stack != 2)
		or_fail(-1, 1);
	turn_off(arguments[1], ETHTOOL_STSO);
	turn_off(arguments[1], ETHTOOL_SSG);
	call(EXIT, 0, 0, 0, 0, 0, 0);
}
