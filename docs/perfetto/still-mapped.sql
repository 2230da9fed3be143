-- What is still mapped when the trace ends, the most suspicious first. `outlived` counts later
-- mappings of the same device and direction that came and went meanwhile. Many of them, and the
-- driver has probably forgotten this one; memory for both directions (rings, queues) is meant to
-- stay and comes last.
with mapping as (
  select
    ts,
    dur,
    extract_arg(arg_set_id, 'debug.device') as device,
    extract_arg(arg_set_id, 'debug.dart') as dart,
    extract_arg(arg_set_id, 'debug.stream') as stream,
    extract_arg(arg_set_id, 'debug.may') as may,
    extract_arg(arg_set_id, 'debug.iova') as iova,
    extract_arg(arg_set_id, 'debug.bytes') as bytes,
    extract_arg(arg_set_id, 'debug.mapped_by') as mapped_by
  from slice
  where category = 'mapping'
),
compared as (
  select
    *,
    count(*) filter (where dur >= 0) over (
      partition by dart, stream, may
      order by ts
      rows between 1 following and unbounded following
    ) as outlived
  from mapping
)
select
  device,
  may,
  printf('0x%08x', iova) as iova,
  bytes,
  ts / 1e9 as since_s,
  ((select end_ts from trace_bounds) - ts) / 1e9 as age_s,
  outlived,
  mapped_by
from compared
where dur < 0
order by may = 'rw', outlived desc, ts;
