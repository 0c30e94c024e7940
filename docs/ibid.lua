-- Wireshark's view of ibid's link: every frame of docs/link-protocol.md, field by field.
-- Install: cp ibid.lua ~/.local/lib/wireshark/plugins/ ; or for once: wireshark -X lua_script:docs/ibid.lua FILE
-- Frames are recognised by their first bytes, on any UDP port that no other protocol claims, and on those of the preference "ports". What is encrypted is shown as such; `ibid run --pcap FILE --pcap-decrypted`
-- writes captures in which it is not. Fields: ibid.kind, ibid.number, ibid.section.kind, ibid.report.durable …

local ibid = Proto("ibid", "ibid link")

local kinds = { [0] = "sourced", [1] = "reported", [2] = "hello", [3] = "hello answer", [4] = "ask", [5] = "answer", [6] = "cookie" }
local section_kinds = {
  [1] = "Log", [2] = "CpOpen", [3] = "CpList", [4] = "CpBlock", [5] = "Ping", [6] = "Report", [7] = "Hello", [8] = "HelloAnswer",
  [9] = "Goodbye", [10] = "Ask", [11] = "Answer",
}
local outcomes = {
  [0] = "continue", [1] = "fetch", [2] = "salvage", [3] = "rollback", [4] = "catch up", [128] = "another pair", [129] = "older epoch",
  [130] = "another log geometry", [131] = "other volumes", [132] = "another history", [133] = "the destination has failed",
  [134] = "blank", [135] = "acknowledged entries are lost", [136] = "another link.encryption",
}
local volume_states = { [0] = "new", [1] = "in sync", [2] = "out of sync" }
local ask_kinds = { [1] = "bytes of the log", [2] = "bytes of a volume", [3] = "checksums of a volume" }
local answer_kinds = { [1] = "bytes", [2] = "checksums", [3] = "not now", [4] = "unreadable", [5] = "not held" }

local F = {
  version = ProtoField.uint8("ibid.version", "Version"),
  kind = ProtoField.uint8("ibid.kind", "Kind", base.DEC, kinds),
  shard = ProtoField.uint16("ibid.shard", "Shard"),
  sections = ProtoField.uint16("ibid.sections", "Sections"),
  session = ProtoField.uint64("ibid.session", "Session", base.HEX),
  epoch = ProtoField.uint64("ibid.epoch", "Epoch"),
  number = ProtoField.uint64("ibid.number", "Packet number"),
  counter = ProtoField.uint64("ibid.counter", "Counter of seals"),
  tag = ProtoField.bytes("ibid.tag", "Tag"),
  encrypted = ProtoField.bytes("ibid.encrypted", "Encrypted"),
  cookie = ProtoField.bytes("ibid.cookie", "Cookie"),
  public_key = ProtoField.bytes("ibid.public_key", "Public key"),
  section = ProtoField.none("ibid.section", "Section"),
  section_kind = ProtoField.uint8("ibid.section.kind", "Kind", base.DEC, section_kinds),
  section_length = ProtoField.uint16("ibid.section.length", "Length"),
  section_crc = ProtoField.uint32("ibid.section.crc", "CRC32C", base.HEX),
  section_segment = ProtoField.uint32("ibid.section.segment", "Segment or CP"),
  section_place = ProtoField.uint32("ibid.section.place", "Place"),
  section_extra = ProtoField.uint32("ibid.section.extra", "Extra"),
  body = ProtoField.bytes("ibid.body", "Body"),
  pair = ProtoField.guid("ibid.hello.pair", "Pair"),
  instance = ProtoField.uint64("ibid.hello.instance", "Instance", base.HEX),
  cp = ProtoField.uint64("ibid.cp", "Consistency point"),
  lsn = ProtoField.uint64("ibid.lsn", "Newest entry in it"),
  chain = ProtoField.bytes("ibid.chain", "Chain digest"),
  slots = ProtoField.uint32("ibid.hello.slots", "Segment slots"),
  slot_blocks = ProtoField.uint32("ibid.hello.slot_blocks", "Blocks of each"),
  outcome = ProtoField.uint8("ibid.hello_answer.outcome", "Outcome", base.DEC, outcomes),
  volumes = ProtoField.uint8("ibid.volumes", "Volumes", base.DEC, volume_states),
  durable = ProtoField.uint64("ibid.report.durable", "Durable up to entry"),
  limit = ProtoField.uint64("ibid.limit", "Room up to segment"),
  listed = ProtoField.uint64("ibid.report.listed", "List gone through of CP"),
  credit = ProtoField.uint32("ibid.report.credit", "Block credit"),
  delay = ProtoField.uint32("ibid.report.delay", "Oldest packet waits (µs)"),
  failed = ProtoField.uint8("ibid.report.failed", "Failed"),
  range = ProtoField.string("ibid.report.range", "Packets arrived"),
  refused = ProtoField.uint32("ibid.report.refused", "Record refused"),
  records = ProtoField.uint32("ibid.cp_open.records", "Records"),
  batches = ProtoField.uint32("ibid.cp_open.batches", "Batches"),
  list_crc = ProtoField.uint32("ibid.cp_open.crc", "CRC32C of the list", base.HEX),
  full = ProtoField.uint8("ibid.cp_open.full", "Every run as blocks"),
  in_sync = ProtoField.uint8("ibid.cp_open.in_sync", "In sync with this CP"),
  chain_after = ProtoField.bytes("ibid.cp_open.chain_after", "Chain digest after"),
  ask_id = ProtoField.uint64("ibid.ask.id", "Question"),
  ask_kind = ProtoField.uint8("ibid.ask.kind", "Wants", base.DEC, ask_kinds),
  ask_volume = ProtoField.uint16("ibid.ask.volume", "Volume"),
  ask_block = ProtoField.uint32("ibid.ask.block", "Block in the segment"),
  ask_at = ProtoField.uint64("ibid.ask.at", "Segment, first sector or first block"),
  ask_count = ProtoField.uint16("ibid.ask.count", "Sectors or blocks"),
  answer_kind = ProtoField.uint8("ibid.answer.kind", "Gives", base.DEC, answer_kinds),
}
ibid.fields = F

local E = {
  lengths = ProtoExpert.new("ibid.lengths", "Lengths do not add up", expert.group.MALFORMED, expert.severity.ERROR),
}
ibid.experts = E

local SECTION_BYTES = 20
local SECTIONS_MAX = 16
local VERSION = 3
-- What stands before the table.
local HEADER_BYTES = 56

local function hello(body, tree)
  if body:len() < 232 then tree:add_proto_expert_info(E.lengths) return end
  tree:add(F.pair, body(0, 16))
  tree:add_le(F.instance, body(16, 8))
  tree:add_le(F.cp, body(24, 8))
  tree:add_le(F.lsn, body(32, 8))
  tree:add(F.chain, body(40, 32))
  tree:add_le(F.slots, body(72, 4))
  tree:add_le(F.slot_blocks, body(76, 4))
end

local function hello_answer(body, tree)
  if body:len() < 128 then tree:add_proto_expert_info(E.lengths) return end
  tree:add(F.outcome, body(0, 1))
  tree:add(F.volumes, body(1, 1))
  tree:add_le(F.cp, body(8, 8))
  tree:add(F.chain, body(16, 32))
  tree:add_le(F.durable, body(48, 8))
  tree:add_le(F.limit, body(56, 8))
end

local function report(body, tree)
  if body:len() < 96 then tree:add_proto_expert_info(E.lengths) return end
  local ranges, refused = body(72, 2):le_uint(), body(74, 2):le_uint()
  tree:add_le(F.durable, body(0, 8))
  tree:add_le(F.limit, body(8, 8))
  tree:add_le(F.cp, body(16, 8))
  tree:add(F.chain, body(24, 32))
  tree:add_le(F.listed, body(56, 8))
  tree:add_le(F.credit, body(64, 4))
  tree:add_le(F.delay, body(68, 4))
  tree:add(F.failed, body(76, 1))
  tree:add(F.volumes, body(77, 1))
  if body:len() ~= 96 + ranges * 16 + refused * 4 then tree:add_proto_expert_info(E.lengths) return end
  for i = 0, ranges - 1 do
    local range = body(96 + i * 16, 16)
    tree:add(F.range, range, string.format("%s to %s", tostring(range(0, 8):le_uint64()), tostring(range(8, 8):le_uint64())))
  end
  for i = 0, refused - 1 do
    tree:add_le(F.refused, body(96 + ranges * 16 + i * 4, 4))
  end
end

local function cp_open(body, tree)
  if body:len() < 112 then tree:add_proto_expert_info(E.lengths) return end
  tree:add_le(F.cp, body(0, 8))
  tree:add_le(F.lsn, body(8, 8))
  tree:add_le(F.records, body(16, 4))
  tree:add_le(F.batches, body(20, 4))
  tree:add_le(F.list_crc, body(24, 4))
  tree:add(F.full, body(28, 1))
  tree:add(F.in_sync, body(29, 1))
  tree:add(F.chain, body(32, 32))
  tree:add(F.chain_after, body(64, 32))
end

local function ask(body, tree)
  if body:len() < 40 then tree:add_proto_expert_info(E.lengths) return end
  tree:add_le(F.ask_id, body(0, 8))
  tree:add_le(F.cp, body(8, 8))
  tree:add(F.ask_kind, body(16, 1))
  if body(16, 1):uint() == 1 then
    tree:add_le(F.ask_block, body(20, 4))
  else
    tree:add_le(F.ask_volume, body(18, 2))
  end
  tree:add_le(F.ask_at, body(24, 8))
  tree:add_le(F.ask_count, body(32, 2))
end

local function answer(body, tree)
  if body:len() < 16 then tree:add_proto_expert_info(E.lengths) return end
  tree:add_le(F.ask_id, body(0, 8))
  tree:add(F.answer_kind, body(8, 1))
  if body:len() > 16 then tree:add(F.body, body(16)) end
end

local bodies = { [2] = cp_open, [6] = report, [7] = hello, [8] = hello_answer, [10] = ask, [11] = answer }

-- Whether a table of that many sections begins here and its bodies end where the frame does: what is encrypted does not look so.
local function is_open(rest, sections)
  if sections == 0 or sections > SECTIONS_MAX or rest:len() < sections * SECTION_BYTES then return false end
  local length = sections * SECTION_BYTES
  for i = 0, sections - 1 do
    local line = rest(i * SECTION_BYTES, SECTION_BYTES)
    if not section_kinds[line(0, 1):uint()] or line(1, 1):uint() ~= 0 then return false end
    length = length + line(2, 2):le_uint()
  end
  return length == rest:len()
end

local function dissect_sections(rest, sections, tree)
  local at, names = sections * SECTION_BYTES, {}
  for i = 0, sections - 1 do
    local line = rest(i * SECTION_BYTES, SECTION_BYTES)
    local kind, length = line(0, 1):uint(), line(2, 2):le_uint()
    names[#names + 1] = section_kinds[kind]
    local sub = tree:add(F.section, line)
    sub:append_text(string.format(" %d: %s, %d bytes", i + 1, section_kinds[kind], length))
    sub:add(F.section_kind, line(0, 1))
    sub:add_le(F.section_length, line(2, 2))
    sub:add_le(F.section_crc, line(4, 4))
    sub:add_le(F.section_segment, line(8, 4))
    sub:add_le(F.section_place, line(12, 4))
    sub:add_le(F.section_extra, line(16, 4))
    if length > 0 then
      local body = rest(at, length)
      if bodies[kind] then bodies[kind](body, sub) else sub:add(F.body, body) end
    end
    at = at + length
  end
  return table.concat(names, ", ")
end

-- "ib", a version, a kind.
local function is_ours(buffer)
  return buffer:len() >= HEADER_BYTES and buffer(0, 2):string() == "ib" and buffer(2, 1):uint() == VERSION
    and kinds[buffer(3, 1):uint()] ~= nil
end

function ibid.dissector(buffer, pinfo, root)
  if not is_ours(buffer) then return 0 end
  pinfo.cols.protocol = "ibid"
  local tree = root:add(ibid, buffer())
  local kind, sections = buffer(3, 1):uint(), buffer(6, 2):le_uint()
  tree:add(F.version, buffer(2, 1))
  tree:add(F.kind, buffer(3, 1))
  tree:add_le(F.shard, buffer(4, 2))
  tree:add_le(F.sections, buffer(6, 2))
  tree:add_le(F.session, buffer(8, 8))
  tree:add_le(F.epoch, buffer(16, 8))
  tree:add_le(F.number, buffer(24, 8))
  tree:add_le(F.counter, buffer(32, 8))
  tree:add(F.tag, buffer(40, 16))
  local info = string.format("%s %s", kinds[kind], tostring(buffer(24, 8):le_uint64()))

  local at = HEADER_BYTES
  -- A hello begins with a cookie and both halves of the handshake with a public key; the rest is the handshake's own.
  local fixed = {}
  if kind == 2 then fixed = { { F.cookie, 16 }, { F.public_key, 32 } }
  elseif kind == 3 then fixed = { { F.public_key, 32 } }
  elseif kind == 6 then fixed = { { F.cookie, 16 } } end
  for _, field in ipairs(fixed) do
    if buffer:len() < at + field[2] then tree:add_proto_expert_info(E.lengths) return buffer:len() end
    tree:add(field[1], buffer(at, field[2]))
    at = at + field[2]
  end
  if at < buffer:len() then
    local rest = buffer(at):tvb()
    if is_open(rest, sections) then
      info = info .. ": " .. dissect_sections(rest, sections, tree)
    else
      tree:add(F.encrypted, buffer(at))
      info = info .. ", encrypted"
    end
  end
  pinfo.cols.info = info
  return buffer:len()
end

-- The port is the configuration's, so frames are known by how they begin. Ports that Wireshark holds for somebody else's (the examples'
-- 4790 is VXLAN-GPE's) are named here; others can be, in the preferences.
ibid.prefs.ports = Pref.range("UDP ports", "4421,4790,4791", "Ports of link.local and link.peer that other protocols claim", 65535)
local udp = DissectorTable.get("udp.port")
local held
local function hold()
  if held then udp:remove(held, ibid) end
  held = ibid.prefs.ports
  udp:add(held, ibid)
end
function ibid.prefs_changed() hold() end
hold()

ibid:register_heuristic("udp", function(buffer, pinfo, root)
  if not is_ours(buffer) then return false end
  ibid.dissector(buffer, pinfo, root)
  return true
end)
