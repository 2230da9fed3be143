// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Joins the distribution's DART driver to its page-table code inside one module.
 *
 * A kernel without CONFIG_APPLE_DART has no DART entry in its list of I/O page-table formats, so the driver's calls
 * to the list are named away to the two functions below, which know one format only.
 */
#include <linux/io-pgtable.h>

struct io_pgtable_ops *oche_alloc_dart_tables(enum io_pgtable_fmt format, struct io_pgtable_cfg *config, void *cookie)
{
	struct io_pgtable *tables = io_pgtable_apple_dart_init_fns.alloc(config, cookie);

	if (!tables)
		return NULL;
	/* The list would fill these in; alloc() has by now completed the configuration. */
	tables->fmt = format;
	tables->cookie = cookie;
	tables->cfg = *config;
	return &tables->ops;
}

void oche_free_dart_tables(struct io_pgtable_ops *operations)
{
	if (operations)
		io_pgtable_apple_dart_init_fns.free(io_pgtable_ops_to_pgtable(operations));
}
