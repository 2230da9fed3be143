-- Wireshark dissector for the packets that `oche trace pcapng` writes: one event of Oche's trace each, on link
-- type USER0. The packet is described in docs/trace.md. Works with Wireshark and tshark 3.6 and later.

local oche = Proto("oche", "Oche DMA trace")

-- Generated from the table of events; a test compares.
local KINDS = {
    [1] = "register",
    [2] = "flush",
    [3] = "flush_done",
    [4] = "map",
    [5] = "unmap",
    [6] = "refused",
    [7] = "moved",
    [8] = "live_move",
    [9] = "merged",
    [11] = "red_zone",
    [12] = "io_page_fault",
    [13] = "table",
    [14] = "attach",
    [15] = "invalidate_timeout",
    [16] = "access",
    [17] = "filter",
    [18] = "snapshot",
    [19] = "data",
    [20] = "watch",
    [21] = "callers",
    [22] = "fetched",
    [23] = "permission",
    [24] = "callchain",
}
local PLACEMENTS = {
    [0] = "direct",
    [1] = "migrated",
    [2] = "bounce",
}
local REASONS = {
    [0] = "pool-exhausted",
    [1] = "not-guest-memory",
    [2] = "device-not-direct",
    [3] = "sub-page-window",
    [4] = "too-many-aliases",
    [5] = "table-not-guest-memory",
    [6] = "too-many-tables",
    [7] = "too-many-domains",
    [8] = "out-of-stage2-tables",
    [9] = "not-trappable",
    [10] = "mixed-permission",
}
local HOWS = {
    [0] = "exact",
    [1] = "before",
    [2] = "after",
    [3] = "given-up",
}
local FIELDS = {
    register = {
        offset = { word = "payload", low = 32, bits = 16 },
        is_write = { word = "detail", low = 0, bits = 1 },
        value = { word = "payload", low = 0, bits = 32 },
    },
    flush = {
        streams = { word = "payload", low = 0, bits = 16 },
    },
    flush_done = {
        pages = { word = "payload", low = 0, bits = 32 },
        is_busy = { word = "detail", low = 0, bits = 1 },
    },
    map = {
        iova = { word = "payload", low = 32, bits = 32 },
        page = { word = "payload", low = 0, bits = 32 },
        permission = { word = "detail", low = 0, bits = 2 },
        placement = { word = "detail", low = 2, bits = 4 },
    },
    unmap = {
        iova = { word = "payload", low = 32, bits = 32 },
        page = { word = "payload", low = 0, bits = 32 },
    },
    refused = {
        iova = { word = "payload", low = 32, bits = 32 },
        page = { word = "payload", low = 0, bits = 32 },
        reason = { word = "detail", low = 0, bits = 8 },
    },
    moved = {
        page = { word = "payload", low = 0, bits = 32 },
        to = { word = "payload", low = 32, bits = 32 },
    },
    live_move = {
        iova = { word = "payload", low = 32, bits = 32 },
        to = { word = "payload", low = 0, bits = 32 },
        merged_bytes = { word = "detail", low = 0, bits = 15 },
    },
    merged = {
        page = { word = "payload", low = 0, bits = 32 },
        bytes = { word = "payload", low = 32, bits = 32 },
    },
    red_zone = {
        iova = { word = "payload", low = 32, bits = 32 },
        offset = { word = "payload", low = 0, bits = 16 },
        bytes = { word = "payload", low = 16, bits = 16 },
        follow = { word = "detail", low = 0, bits = 15 },
    },
    io_page_fault = {
        iova = { word = "payload", low = 0, bits = 64 },
        code = { word = "detail", low = 0, bits = 13 },
        is_write = { word = "detail", low = 13, bits = 1 },
        is_hidden = { word = "detail", low = 14, bits = 1 },
    },
    table = {
        page = { word = "payload", low = 0, bits = 32 },
        is_unsync = { word = "detail", low = 0, bits = 1 },
    },
    attach = {
        is_there = { word = "detail", low = 0, bits = 1 },
        root = { word = "payload", low = 0, bits = 32 },
    },
    invalidate_timeout = {
    },
    access = {
        address = { word = "payload", low = 0, bits = 64 },
        is_write = { word = "detail", low = 0, bits = 1 },
    },
    filter = {
        generation = { word = "payload", low = 0, bits = 32 },
        is_whole = { word = "detail", low = 0, bits = 1 },
    },
    snapshot = {
        iova = { word = "payload", low = 32, bits = 32 },
        page = { word = "payload", low = 0, bits = 32 },
        is_written = { word = "detail", low = 14, bits = 1 },
        bytes = { word = "detail", low = 0, bits = 13 },
    },
    data = {
    },
    watch = {
        iova = { word = "payload", low = 44, bits = 20 },
        offset = { word = "payload", low = 32, bits = 12 },
        page = { word = "payload", low = 0, bits = 32 },
        bytes = { word = "detail", low = 1, bits = 7 },
        is_write = { word = "detail", low = 0, bits = 1 },
        how = { word = "detail", low = 8, bits = 2 },
    },
    callers = {
        frames = { word = "detail", low = 0, bits = 4 },
        first = { word = "payload", low = 0, bits = 64 },
    },
    fetched = {
        page = { word = "payload", low = 0, bits = 32 },
        from = { word = "payload", low = 32, bits = 32 },
    },
    permission = {
        iova = { word = "payload", low = 32, bits = 32 },
        page = { word = "payload", low = 0, bits = 32 },
        permission = { word = "detail", low = 0, bits = 2 },
    },
    callchain = {
        frames = { word = "detail", low = 0, bits = 4 },
        is_cut = { word = "detail", low = 4, bits = 1 },
        nearest = { word = "payload", low = 0, bits = 64 },
    },
}
-- End of the generated part.

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
    unsync = ProtoField.bool("oche.table.unsync", "Unsync"),
    attached = ProtoField.bool("oche.attached", "Attached"),
    at_unmap = ProtoField.bool("oche.snapshot.at_unmap", "Taken at unmap"),
    payload = ProtoField.bytes("oche.payload", "Bytes of the buffer"),
    caller = ProtoField.uint64("oche.caller", "Returns to", base.HEX),
    cut = ProtoField.bool("oche.callers.cut", "More may follow"),
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

-- An address of 64 bits without leading zeros.
local function short(number)
    return "0x" .. number:tohex():gsub("^0+", "")
end

local function fault_meaning(code)
    for _, pair in ipairs(CODES) do
        if bit.band(code, pair[1]) ~= 0 then return pair[2] end
    end
    return "unknown"
end

-- The fields of a record of the kind `name`, by their names, as FIELDS places them.
local function reader(record, name)
    local places = FIELDS[name]
    local read = {}

    -- The bytes that a field is in.
    function read.range(field)
        local place = places[field]
        if place.word == "detail" then return record(22, 2) end
        local first = math.floor(place.low / 8)
        local last = math.floor((place.low + place.bits - 1) / 8)
        return record(24 + first, last - first + 1)
    end

    -- A field of at most 32 bits, all in one half of its word.
    function read.number(field)
        local place = places[field]
        local word
        if place.word == "detail" then
            word = bit.rshift(record(22, 2):le_uint(), 1)
        else
            word = record(24 + math.floor(place.low / 32) * 4, 4):le_uint()
        end
        if place.bits == 32 then return word end
        return bit.band(bit.rshift(word, place.low % 32), bit.lshift(1, place.bits) - 1)
    end

    function read.flag(field)
        return read.number(field) ~= 0
    end

    -- A field of 64 bits.
    function read.long(field)
        return read.range(field):le_uint64()
    end

    -- A page's address.
    function read.page(field)
        return address(read.number(field))
    end

    return read
end

-- Adds the pages that most events name, and returns their addresses as texts.
local function page_fields(tree, read)
    local iova, gpa = read.page("iova"), read.page("page")
    tree:add(fields.iova, read.range("iova"), iova)
    tree:add(fields.gpa, read.range("page"), gpa)
    return short(iova), short(gpa)
end

-- What each kind adds: the tree's fields, and a line for the Info column.
local describe = {}

function describe.register(tree, read)
    local write = read.flag("is_write")
    tree:add(fields.offset, read.range("offset"), read.number("offset"))
    tree:add(fields.value, read.range("value"), read.number("value"))
    tree:add(fields.write, read.range("is_write"), write)
    local verb = write and "write" or "read"
    return string.format("%s register 0x%04x, value %s", verb, read.number("offset"), hex(read.number("value")))
end

function describe.flush(tree, read)
    tree:add(fields.streams, read.range("streams"), read.number("streams"))
    return string.format("flush asked for, streams 0x%04x", read.number("streams"))
end

function describe.flush_done(tree, read)
    tree:add(fields.pages, read.range("pages"), read.number("pages"))
    tree:add(fields.busy, read.range("is_busy"), read.flag("is_busy"))
    return read.flag("is_busy") and "flush goes on at the next poll" or "flush done"
end

function describe.map(tree, read)
    local iova, gpa = page_fields(tree, read)
    local permission, placement = read.number("permission"), read.number("placement")
    tree:add(fields.size, PAGE_BYTES):set_generated()
    tree:add(fields.permission, read.range("permission"), permission)
    tree:add(fields.placement, read.range("placement"), placement)
    return string.format("map %s to %s, %s, %s", iova, gpa, PERMISSIONS[permission], PLACEMENTS[placement] or "?")
end

function describe.unmap(tree, read)
    local iova, gpa = page_fields(tree, read)
    tree:add(fields.size, PAGE_BYTES):set_generated()
    return string.format("unmap %s from %s", iova, gpa)
end

function describe.permission(tree, read)
    local iova, gpa = page_fields(tree, read)
    local permission = read.number("permission")
    tree:add(fields.permission, read.range("permission"), permission)
    return string.format("%s of %s, from here on %s", iova, gpa, PERMISSIONS[permission])
end

function describe.refused(tree, read)
    local iova, gpa = page_fields(tree, read)
    local reason = read.number("reason")
    tree:add(fields.reason, read.range("reason"), reason)
    tree:add_proto_expert_info(experts.refused)
    return string.format("refused %s to %s: %s", iova, gpa, REASONS[reason] or "?")
end

function describe.moved(tree, read)
    tree:add(fields.gpa, read.range("page"), read.page("page"))
    tree:add(fields.hpa, read.range("to"), read.page("to"))
    return "page moved"
end

function describe.fetched(tree, read)
    tree:add(fields.gpa, read.range("page"), read.page("page"))
    tree:add(fields.hpa, read.range("from"), read.page("from"))
    return "page brought home for an untranslated bus master"
end

function describe.live_move(tree, read)
    local merged = read.number("merged_bytes")
    tree:add(fields.iova, read.range("iova"), read.page("iova"))
    tree:add(fields.bytes, read.range("merged_bytes"), merged)
    return string.format("granule moved while in use, %d bytes brought along", merged)
end

function describe.merged(tree, read)
    tree:add(fields.gpa, read.range("page"), read.page("page"))
    tree:add(fields.bytes, read.range("bytes"), read.number("bytes"))
    return string.format("copies made equal, %d bytes differed", read.number("bytes"))
end

function describe.red_zone(tree, read)
    local iova = read.page("iova") + UInt64.new(read.number("offset"), 0)
    tree:add(fields.iova, read.range("iova"), iova)
    tree:add(fields.bytes, read.range("bytes"), read.number("bytes"))
    tree:add_proto_expert_info(experts.red_zone)
    return string.format("RED ZONE: %d bytes written from %s on", read.number("bytes"), short(iova))
end

function describe.io_page_fault(tree, read)
    local iova, code, write = read.long("iova"), read.number("code"), read.flag("is_write")
    tree:add(fields.iova, read.range("iova"), iova)
    tree:add(fields.write, read.range("is_write"), write)
    tree:add(fields.fault_code, read.range("code"), code)
    tree:add(fields.fault_meaning, read.range("code"), fault_meaning(code))
    tree:add(fields.fault_hidden, read.range("is_hidden"), read.flag("is_hidden"))
    tree:add_proto_expert_info(experts.fault)
    return string.format("FAULT: %s of %s refused: %s", write and "write" or "read", short(iova), fault_meaning(code))
end

function describe.table(tree, read)
    tree:add(fields.gpa, read.range("page"), read.page("page"))
    tree:add(fields.unsync, read.range("is_unsync"), read.flag("is_unsync"))
    return read.flag("is_unsync") and "table is compared at each sync" or "table's writes trap"
end

function describe.attach(tree, read)
    local attached = read.flag("is_there")
    tree:add(fields.attached, read.range("is_there"), attached)
    if attached then tree:add(fields.gpa, read.range("root"), read.page("root")) end
    return attached and "stream translates" or "stream cut off"
end

function describe.access(tree, read)
    tree:add(fields.gpa, read.range("address"), read.long("address"))
    tree:add(fields.write, read.range("is_write"), read.flag("is_write"))
    return "the guest touched a trapped page"
end

function describe.filter(tree, read)
    tree:add(fields.whole, read.range("is_whole"), read.flag("is_whole"))
    return read.flag("is_whole") and "everything is recorded from here" or "a part is recorded from here"
end

function describe.snapshot(tree, read)
    local iova = page_fields(tree, read)
    local bytes, at_unmap = read.number("bytes"), read.flag("is_written")
    tree:add(fields.bytes, read.range("bytes"), bytes)
    tree:add(fields.at_unmap, read.range("is_written"), at_unmap)
    return string.format("%d bytes at %s, as %s", bytes, iova, at_unmap and "unmapped" or "mapped")
end

function describe.watch(tree, read)
    local write, bytes, how = read.flag("is_write"), read.number("bytes"), read.number("how")
    local offset = UInt64.new(read.number("offset"), 0)
    local iova, gpa = read.page("iova") + offset, read.page("page") + offset
    tree:add(fields.iova, read.range("iova"), iova)
    tree:add(fields.gpa, read.range("page"), gpa)
    tree:add(fields.write, read.range("is_write"), write)
    tree:add(fields.bytes, read.range("bytes"), bytes)
    tree:add(fields.how, read.range("how"), how)
    if HOWS[how] == "given-up" then return string.format("no longer watched: %s", short(iova)) end
    return string.format("CPU %s %d bytes at %s, %s", write and "writes" or "reads", bytes, short(iova), HOWS[how])
end

-- The callers of a flush, as signed distances from the code.
function describe.callchain(tree, read, record, code)
    local frames = read.number("frames")
    for index = 0, math.min(frames, 2) - 1 do
        local range = record(24 + index * 4, 4)
        tree:add(fields.caller, range, code + UInt64.new(range:le_uint(), range:le_int() < 0 and 0xffffffff or 0))
    end
    tree:add(fields.cut, read.range("is_cut"), read.flag("is_cut"))
    return string.format("%d callers", frames)
end

function describe.callers(tree, read)
    tree:add(fields.caller, read.range("first"), read.long("first"))
    return string.format("%d callers", read.number("frames"))
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
    local add = describe[name]
    local info = add and add(tree, reader(record, name), record, pc) or name
    dissect_items(tvb, pinfo, tree)
    local unmapped = unmapped_in[pinfo.number]
    if name == "map" and unmapped then tree:add(fields.unmapped_in, unmapped):set_generated() end
    pinfo.cols.info = info
    tree:append_text(", " .. info)
    return tvb:len()
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, oche)
