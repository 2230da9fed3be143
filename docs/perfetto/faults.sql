-- Each fault, and the last mapping before it at its address: who had the page mapped, who unmapped
-- it, and how long before. `state` says whether it was mapped at the time: a mapping ends with the
-- last of its pages.
with mapping as materialized (
  select
    slice_id,
    ts,
    iif(dur < 0, null, ts + dur) as until,
    extract_arg(arg_set_id, 'debug.dart') as dart,
    extract_arg(arg_set_id, 'debug.stream') as stream,
    extract_arg(arg_set_id, 'debug.may') as may,
    extract_arg(arg_set_id, 'debug.iova') as iova,
    extract_arg(arg_set_id, 'debug.bytes') as bytes,
    extract_arg(arg_set_id, 'debug.mapped_by') as mapped_by,
    extract_arg(arg_set_id, 'debug.unmapped_by') as unmapped_by
  from slice
  where category = 'mapping'
),
fault as (
  select
    ts,
    name,
    extract_arg(arg_set_id, 'debug.device') as device,
    extract_arg(arg_set_id, 'debug.dart') as dart,
    extract_arg(arg_set_id, 'debug.stream') as stream,
    extract_arg(arg_set_id, 'debug.iova') as iova,
    extract_arg(arg_set_id, 'debug.meaning') as meaning
  from slice
  where category = 'incident' and name glob 'fault: *'
),
paired as (
  select
    fault.*,
    (
      select slice_id
      from mapping
      where mapping.dart = fault.dart and mapping.stream = fault.stream
        and mapping.iova <= fault.iova and fault.iova < mapping.iova + mapping.bytes
        and mapping.ts <= fault.ts
      order by mapping.ts desc
      limit 1
    ) as last_mapping
  from fault
)
select
  paired.ts / 1e9 as at_s,
  paired.device,
  paired.name as fault,
  printf('0x%08x', paired.iova) as iova,
  paired.meaning,
  case
    when mapping.ts is null then 'never mapped'
    when mapping.until <= paired.ts then 'unmapped'
    else 'mapped ' || mapping.may
  end as state,
  iif(mapping.until <= paired.ts, (paired.ts - mapping.until) / 1e3, null) as unmapped_for_us,
  mapping.mapped_by,
  iif(mapping.until <= paired.ts, mapping.unmapped_by, null) as unmapped_by
from paired
left join mapping on mapping.slice_id = paired.last_mapping
order by paired.ts;
