-- wrk sends the bodies FOLDER/N_0.json to FOLDER/N_15.json in turn, and tells its figures in one line of JSON.
local requests, next_request = {}, 0

function init(arguments)
  for number = 0, 15 do
    local file = assert(io.open(arguments[1] .. "_" .. number .. ".json"))
    requests[number] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, file:read("*a"))
    file:close()
  end
end

function request()
  next_request = (next_request + 1) % 16
  return requests[next_request]
end

function done(summary, latency, _)
  local errors = summary.errors
  print(string.format(
    'RESULT {"requests":%d,"seconds":%f,"p50_us":%d,"p99_us":%d,"errors":%d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
    errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
