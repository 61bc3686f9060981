-- For wrk: posts the file BODY as TYPE, and says in one line of JSON how often each status came and whether refusals named a time.
local file = assert(io.open(os.getenv("BODY"), "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["Content-Type"] = os.getenv("TYPE")

local thread
setup = function(it) thread = it end

answered, overloaded, other, silent = 0, 0, 0, 0
response = function(status, headers)
  if status == 200 then answered = answered + 1
  elseif status == 503 then
    overloaded = overloaded + 1
    local after = headers["retry-after"] or headers["Retry-After"]
    if not after then silent = silent + 1 end
  else other = other + 1 end
end

done = function(summary)
  local errors = summary.errors
  io.write(string.format('{"answered": %d, "overloaded": %d, "without_retry_after": %d, "other": %d, "broken": %d}\n',
    thread:get("answered"), thread:get("overloaded"), thread:get("silent"), thread:get("other"),
    errors.connect + errors.read + errors.write + errors.timeout))
end
