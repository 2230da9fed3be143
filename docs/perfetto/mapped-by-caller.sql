-- Who maps the most bytes: by device, and by the guest's function that had them mapped.
with mapping as (
  select
    extract_arg(arg_set_id, 'debug.device') as device,
    extract_arg(arg_set_id, 'debug.mapped_by') as code,
    extract_arg(arg_set_id, 'debug.bytes') as bytes,
    -- A slice without an end has the duration -1: it was mapped when the trace ended.
    nullif(dur, -1) as mapped_for
  from slice
  where category = 'mapping'
)
select
  device,
  -- `nvme_map_data+0x1c [nvme]` counts as `nvme_map_data [nvme]`. Code without a name stays.
  iif(instr(code, '+0x') = 0, code,
      substr(code, 1, instr(code, '+0x') - 1)
      || iif(instr(code, ' [') = 0, '', substr(code, instr(code, ' [')))) as mapped_by,
  count(*) as mappings,
  sum(bytes) as bytes,
  sum(iif(mapped_for is null, bytes, 0)) as bytes_still_mapped,
  round(avg(mapped_for) / 1e3, 1) as mean_us,
  round(max(mapped_for) / 1e3, 1) as longest_us
from mapping
group by 1, 2
order by sum(bytes) desc, 1, 2;
