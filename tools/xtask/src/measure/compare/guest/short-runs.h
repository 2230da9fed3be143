/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Is included before the distribution's map_benchmark.c, and gives it a finer clock and shorter runs.
 *
 * The benchmark reports its averages in units of 100 ns and runs for whole seconds. A clock that is 100 times as fast makes
 * the unit 1 ns, and a sleep that is 50 times as short makes a "second" 20 ms of the machine's time. The source itself is
 * not changed. A module cannot bind a thread to the CPUs of a memory node, which is asked for only where a node is named.
 */
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/dma-mapping.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/math64.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>

/* A turn reads the clock four times: around the map and around the unmap. */
static unsigned long clock_reads;
module_param(clock_reads, ulong, 0400);

static inline ktime_t oche_fast_clock(void)
{
	clock_reads++;
	return ktime_get() * 100;
}

static inline unsigned long oche_short_sleep(unsigned int milliseconds)
{
	return msleep_interruptible(milliseconds / 50);
}

static inline void oche_leave_unbound(struct task_struct *thread, const struct cpumask *cpus)
{
}

#undef pr_fmt
#define ktime_get oche_fast_clock
#define msleep_interruptible oche_short_sleep
#define kthread_bind_mask oche_leave_unbound
