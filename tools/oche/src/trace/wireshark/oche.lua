-- Wireshark dissector for the packets that `oche trace pcapng` writes: one event of Oche's trace each, on link
-- type USER0. The packet is described in docs/trace.md. Works with Wireshark and tshark 3.6 and later.

local oche = Proto("oche", "Oche DMA trace")

local KINDS = {
    [1] = "register", [2] = "flush", [3] = "flush_done", [4] = "map", [5] = "unmap", [6] = "refused", [7] = "moved",
    [8] = "live_move", [9] = "merged", [11] = "red_zone", [12] = "io_page_fault", [13] = "table",
    [14] = "attach", [15] = "invalidate_timeout", [16] = "access", [17] = "filter", [18] = "snapshot",
    [20] = "watch", [21] = "callers",
    [22] = "fetched",
    [23] = "permission",
}
local PLACEMENTS = { [0] = "direct", [1] = "composed", [2] = "replica" }
local REASONS = {
    [0] = "pool exhausted", [1] = "not guest memory", [2] = "device's page not direct", [3] = "sub-page window",
    [4] = "too many aliases", [5] = "table not guest memory", [6] = "too many tables", [7] = "too many spaces",
    [8] = "out of stage-2 tables",
}
local HOWS = { [0] = "exact", [1] = "before a step", [2] = "after it", [3] = "given up" }
local PERMISSIONS = { [0] = "--", [1] = "r-", [2] = "-w", [3] = "rw" }
local CODES = {
    { 0x01, "no table for the address" }, { 0x02, "no first-level entry" }, { 0x04, "no entry for the page" },
    { 0x08, "the page may not be written" }, { 0x10, "the page may not be read" },
}

local RECORD_BYTES = 32
local PAGE_BYTES = 4096
local ITEM_DEVICE = 1
local ITEM_CODE = 2
local ITEM_PAYLOAD = 3
local ITEM_MAPPED = 4
local ITEM_TIME = 5

local fields = {
    kind = ProtoField.uint8("oche.kind", "Kind", base.DEC, KINDS),
    event = ProtoField.string("oche.event", "Event"),
    time = ProtoField.relative_time("oche.time", "Since Oche's start"),
    ticks = ProtoField.uint64("oche.ticks", "Ticks (CNTPCT_EL0)"),
    sequence = ProtoField.uint32("oche.seq", "Number on its CPU"),
    cpu = ProtoField.uint8("oche.cpu", "CPU"),
    dart = ProtoField.uint8("oche.dart", "DART"),
    stream = ProtoField.uint8("oche.stream", "Stream"),
    device = ProtoField.string("oche.device", "Device"),
    pc = ProtoField.uint64("oche.pc", "Guest's code", base.HEX),
    code = ProtoField.string("oche.code", "Function"),
    iova = ProtoField.uint64("oche.iova", "IOVA", base.HEX),
    gpa = ProtoField.uint64("oche.gpa", "Guest-physical address", base.HEX),
    hpa = ProtoField.uint64("oche.hpa", "Host-physical address", base.HEX),
    size = ProtoField.uint32("oche.size", "Size"),
    permission = ProtoField.uint8("oche.perm", "Device may", base.DEC, PERMISSIONS),
    placement = ProtoField.uint8("oche.placement", "Placement", base.DEC, PLACEMENTS),
    reason = ProtoField.uint8("oche.reason", "Reason", base.DEC, REASONS),
    write = ProtoField.bool("oche.write", "Write"),
    offset = ProtoField.uint16("oche.register.offset", "Register", base.HEX),
    value = ProtoField.uint32("oche.register.value", "Value", base.HEX),
    streams = ProtoField.uint16("oche.streams", "Streams, a bit each", base.HEX),
    pages = ProtoField.uint32("oche.pages", "Slots looked at"),
    busy = ProtoField.bool("oche.busy", "Work is left"),
    bytes = ProtoField.uint32("oche.bytes", "Bytes"),
    fault_code = ProtoField.uint16("oche.fault.code", "Code", base.HEX),
    fault_meaning = ProtoField.string("oche.fault.meaning", "Meaning"),
    fault_hidden = ProtoField.bool("oche.fault.hidden", "Hidden from the guest"),
    open = ProtoField.bool("oche.table.open", "Open"),
    attached = ProtoField.bool("oche.attached", "Attached"),
    at_unmap = ProtoField.bool("oche.snapshot.at_unmap", "Taken at unmap"),
    payload = ProtoField.bytes("oche.payload", "Bytes of the buffer"),
    caller = ProtoField.uint64("oche.caller", "Returns to", base.HEX),
    how = ProtoField.uint8("oche.watch.how", "Known", base.DEC, HOWS),
    whole = ProtoField.bool("oche.filter.whole", "Everything is recorded"),
    mapped_in = ProtoField.framenum("oche.mapped_in", "Mapped in", base.NONE, frametype.REQUEST),
    unmapped_in = ProtoField.framenum("oche.unmapped_in", "Unmapped in", base.NONE, frametype.RESPONSE),
    mapped_for = ProtoField.relative_time("oche.mapped_for", "Was mapped for"),
}
oche.fields = fields

local experts = {
    fault = ProtoExpert.new("oche.expert.fault", "The device was refused", expert.group.SECURITY, expert.severity.ERROR),
    red_zone = ProtoExpert.new("oche.expert.red_zone", "The device wrote where nothing is mapped", expert.group.SECURITY, expert.severity.ERROR),
    refused = ProtoExpert.new("oche.expert.refused", "Oche could not map the page", expert.group.UNDECODED, expert.severity.WARN),
    malformed = ProtoExpert.new("oche.expert.malformed", "No packet of oche trace pcapng", expert.group.MALFORMED, expert.severity.ERROR),
}
oche.experts = experts

-- By packet of a map: the packet of its unmap. Known once that packet was seen.
local unmapped_in = {}

function oche.init()
    unmapped_in = {}
end

-- A page's number as its address, which has more bits than a Lua number holds exactly.
local function address(page)
    return UInt64.new(bit.lshift(page, 12), bit.rshift(page, 20))
end

local function hex(number)
    return string.format("0x%08x", number)
end

local function flag(detail, which)
    return bit.band(bit.rshift(detail, which), 1) == 1
end

local function fault_meaning(code)
    for _, pair in ipairs(CODES) do
        if bit.band(code, pair[1]) ~= 0 then return pair[2] end
    end
    return "unknown"
end

-- What each kind adds: the tree's fields, and a line for the Info column. `low` and `high` are the payload's halves.
local describe = {}

describe[1] = function(tree, record, detail)
    local write = flag(detail, 0)
    tree:add_le(fields.offset, record(28, 2))
    tree:add_le(fields.value, record(24, 4))
    tree:add(fields.write, record(22, 2), write)
    return string.format("%s register 0x%04x, value %s", write and "write" or "read", record(28, 2):le_uint(), hex(record(24, 4):le_uint()))
end

describe[2] = function(tree, record)
    tree:add_le(fields.streams, record(24, 2))
    return string.format("flush asked for, streams 0x%04x", record(24, 2):le_uint())
end

describe[3] = function(tree, record, detail)
    tree:add_le(fields.pages, record(24, 4))
    tree:add(fields.busy, record(22, 2), flag(detail, 0))
    return flag(detail, 0) and "flush goes on at the next poll" or "flush done"
end

local function page_fields(tree, record)
    tree:add(fields.iova, record(28, 4), address(record(28, 4):le_uint()))
    tree:add(fields.gpa, record(24, 4), address(record(24, 4):le_uint()))
    return "0x" .. address(record(28, 4):le_uint()):tohex():gsub("^0+", ""), "0x" .. address(record(24, 4):le_uint()):tohex():gsub("^0+", "")
end

describe[4] = function(tree, record, detail)
    local iova, gpa = page_fields(tree, record)
    local permission, placement = bit.band(detail, 3), bit.band(bit.rshift(detail, 2), 15)
    tree:add(fields.size, PAGE_BYTES):set_generated()
    tree:add(fields.permission, record(22, 2), permission)
    tree:add(fields.placement, record(22, 2), placement)
    return string.format("map %s to %s, %s, %s", iova, gpa, PERMISSIONS[permission], PLACEMENTS[placement] or "?")
end

describe[5] = function(tree, record)
    local iova, gpa = page_fields(tree, record)
    tree:add(fields.size, PAGE_BYTES):set_generated()
    return string.format("unmap %s from %s", iova, gpa)
end

describe[23] = function(tree, record, detail)
    local iova, gpa = page_fields(tree, record)
    local permission = bit.band(detail, 3)
    tree:add(fields.permission, record(22, 2), permission)
    return string.format("%s of %s, from here on %s", iova, gpa, PERMISSIONS[permission])
end

describe[6] = function(tree, record, detail)
    local iova, gpa = page_fields(tree, record)
    local reason = bit.band(detail, 0xff)
    tree:add(fields.reason, record(22, 2), reason)
    tree:add_proto_expert_info(experts.refused)
    return string.format("refused %s to %s: %s", iova, gpa, REASONS[reason] or "?")
end

describe[7] = function(tree, record)
    tree:add(fields.gpa, record(24, 4), address(record(24, 4):le_uint()))
    tree:add(fields.hpa, record(28, 4), address(record(28, 4):le_uint()))
    return "page moved"
end

describe[22] = function(tree, record)
    tree:add(fields.gpa, record(24, 4), address(record(24, 4):le_uint()))
    tree:add(fields.hpa, record(28, 4), address(record(28, 4):le_uint()))
    return "page brought home for a master behind no DART"
end

describe[8] = function(tree, record, detail)
    tree:add(fields.iova, record(28, 4), address(record(28, 4):le_uint()))
    tree:add(fields.bytes, record(22, 2), detail)
    return string.format("granule moved while in use, %d bytes brought along", detail)
end

describe[9] = function(tree, record)
    tree:add(fields.gpa, record(24, 4), address(record(24, 4):le_uint()))
    tree:add_le(fields.bytes, record(28, 4))
    return string.format("copies made equal, %d bytes differed", record(28, 4):le_uint())
end

describe[11] = function(tree, record)
    local page = address(record(28, 4):le_uint())
    local iova = page + UInt64.new(record(24, 2):le_uint(), 0)
    tree:add(fields.iova, record(24, 8), iova)
    tree:add_le(fields.bytes, record(26, 2))
    tree:add_proto_expert_info(experts.red_zone)
    return string.format("RED ZONE: %d bytes written from 0x%s on", record(26, 2):le_uint(), iova:tohex():gsub("^0+", ""))
end

describe[12] = function(tree, record, detail)
    local iova = record(24, 8):le_uint64()
    local code, write = bit.band(detail, 0x1fff), flag(detail, 13)
    tree:add_le(fields.iova, record(24, 8))
    tree:add(fields.write, record(22, 2), write)
    tree:add(fields.fault_code, record(22, 2), code)
    tree:add(fields.fault_meaning, record(22, 2), fault_meaning(code))
    tree:add(fields.fault_hidden, record(22, 2), flag(detail, 14))
    tree:add_proto_expert_info(experts.fault)
    return string.format("FAULT: %s of 0x%s refused: %s", write and "write" or "read", iova:tohex():gsub("^0+", ""), fault_meaning(code))
end

describe[13] = function(tree, record, detail)
    tree:add(fields.gpa, record(24, 4), address(record(24, 4):le_uint()))
    tree:add(fields.open, record(22, 2), flag(detail, 0))
    return flag(detail, 0) and "table is compared at each sync" or "table's writes trap"
end

describe[14] = function(tree, record, detail)
    local attached = flag(detail, 0)
    tree:add(fields.attached, record(22, 2), attached)
    if attached then tree:add(fields.gpa, record(24, 4), address(record(24, 4):le_uint())) end
    return attached and "stream translates" or "stream cut off"
end

describe[16] = function(tree, record, detail)
    tree:add_le(fields.gpa, record(24, 8))
    tree:add(fields.write, record(22, 2), flag(detail, 0))
    return "the guest touched a guarded page"
end

describe[17] = function(tree, record, detail)
    tree:add(fields.whole, record(22, 2), flag(detail, 0))
    return flag(detail, 0) and "everything is recorded from here" or "a part is recorded from here"
end

describe[18] = function(tree, record, detail)
    local iova = page_fields(tree, record)
    tree:add(fields.bytes, record(22, 2), bit.band(detail, 0x1fff))
    tree:add(fields.at_unmap, record(22, 2), flag(detail, 14))
    return string.format("%d bytes at %s, as %s", bit.band(detail, 0x1fff), iova, flag(detail, 14) and "unmapped" or "mapped")
end

describe[20] = function(tree, record, detail)
    local write, bytes, how = flag(detail, 0), bit.band(bit.rshift(detail, 1), 0x7f), bit.band(bit.rshift(detail, 8), 3)
    local iova = record(28, 4):le_uint()
    tree:add(fields.iova, record(28, 4), UInt64.new(iova, 0))
    local gpa = address(record(24, 4):le_uint()) + UInt64.new(iova % PAGE_BYTES, 0)
    tree:add(fields.gpa, record(24, 4), gpa)
    tree:add(fields.write, record(22, 2), write)
    tree:add(fields.bytes, record(22, 2), bytes)
    tree:add(fields.how, record(22, 2), how)
    if how == 3 then return string.format("no longer watched: %s", hex(iova)) end
    return string.format("CPU %s %d bytes at %s, %s", write and "writes" or "reads", bytes, hex(iova), HOWS[how])
end

describe[21] = function(tree, record, detail)
    tree:add(fields.caller, record(24, 8), record(24, 8):le_uint64())
    return string.format("%d callers", bit.band(detail, 0xf))
end

local function nstime(range)
    local nanoseconds = range:le_uint64()
    return NSTime.new((nanoseconds / 1000000000):tonumber(), (nanoseconds % 1000000000):tonumber())
end

local items = {}

items[ITEM_DEVICE] = function(tree, item, pinfo)
    tree:add(fields.device, item)
    pinfo.cols.src = item:string()
end

items[ITEM_CODE] = function(tree, item)
    tree:add(fields.code, item)
end

items[ITEM_PAYLOAD] = function(tree, item)
    if item:len() > 0 then tree:add(fields.payload, item) end
end

items[ITEM_MAPPED] = function(tree, item, pinfo)
    local number = item(0, 8):le_uint64():tonumber()
    if number > 0 then
        unmapped_in[number] = pinfo.number
        tree:add(fields.mapped_in, item(0, 8), number)
    end
    tree:add(fields.mapped_for, item(8, 8), nstime(item(8, 8)))
end

items[ITEM_TIME] = function(tree, item)
    tree:add(fields.time, item, nstime(item))
end

local ITEM_LEAST = { [ITEM_MAPPED] = 16, [ITEM_TIME] = 8 }

local function dissect_items(tvb, pinfo, tree)
    local at = RECORD_BYTES
    while at + 4 <= tvb:len() do
        local kind, length = tvb(at, 2):le_uint(), tvb(at + 2, 2):le_uint()
        if at + 4 + length > tvb:len() then break end
        local read = items[kind]
        if read and length >= (ITEM_LEAST[kind] or 0) and (length > 0 or kind == ITEM_PAYLOAD) then
            if length > 0 then read(tree, tvb(at + 4, length), pinfo) end
        end
        at = at + 4 + length
    end
end

function oche.dissector(tvb, pinfo, root)
    pinfo.cols.protocol = "Oche"
    local tree = root:add(oche, tvb())
    if tvb:len() < RECORD_BYTES then
        tree:add_proto_expert_info(experts.malformed)
        return 0
    end
    local record = tvb(0, RECORD_BYTES)
    local kind = record(12, 1):uint()
    local name = KINDS[kind] or string.format("kind %d", kind)
    tree:add(fields.kind, record(12, 1))
    tree:add(fields.event, record(12, 1), name)
    tree:add_le(fields.ticks, record(0, 8))
    tree:add_le(fields.sequence, record(8, 4))
    tree:add(fields.cpu, record(13, 1))
    if record(14, 1):uint() ~= 0xff then tree:add(fields.dart, record(14, 1)) end
    if record(15, 1):uint() ~= 0xff then tree:add(fields.stream, record(15, 1)) end
    local upper = record(22, 2):le_uint()
    local high = bit.bor(record(20, 2):le_uint(), bit.band(upper, 1) == 1 and 0xffff0000 or 0)
    local pc = UInt64.new(record(16, 4):le_uint(), high)
    if pc ~= UInt64.new(0, 0) then tree:add(fields.pc, record(16, 8), pc) end
    local add = describe[kind]
    local info = add and add(tree, record, bit.rshift(upper, 1)) or name
    dissect_items(tvb, pinfo, tree)
    local unmapped = unmapped_in[pinfo.number]
    if kind == 4 and unmapped then tree:add(fields.unmapped_in, unmapped):set_generated() end
    pinfo.cols.info = info
    tree:append_text(", " .. info)
    return tvb:len()
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, oche)
