--- Dates as servers write them, as seconds since 1970. Internal.
local dates = {}

local months = {}
for i, name in ipairs { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" } do
  months[name] = i
end

-- Days since 1970 of a day of the Gregorian calendar.
local function days_from_civil(year, month, day)
  year = month <= 2 and year - 1 or year
  local era = math.floor(year / 400)
  local year_of_era = year - era * 400
  local day_of_year = math.floor((153 * ((month + 9) % 12) + 2) / 5) + day - 1
  return era * 146097
    + year_of_era * 365
    + math.floor(year_of_era / 4)
    - math.floor(year_of_era / 100)
    + day_of_year
    - 719468
end

local function seconds(year, month, day, hour, minute, second)
  return days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
end

--- An HTTP date in any of its three forms; nil for anything else.
function dates.http(text)
  local day, name, year, hour, minute, second = text:match "(%d+)[ %-](%a%a%a)[ %-](%d+) (%d+):(%d+):(%d+)"
  if not day then
    name, day, hour, minute, second, year = text:match "^%a+ (%a%a%a) +(%d+) (%d+):(%d+):(%d+) (%d%d%d%d)"
  end
  if not months[name] then
    return nil
  end
  year = tonumber(year)
  if year < 100 then
    year = year + (year < 70 and 2000 or 1900)
  end
  return seconds(year, months[name], tonumber(day), hour, minute, second)
end

--- A date such as "2025-01-31T12:00:00Z"; nil for anything else.
function dates.rfc3339(text)
  local year, month, day, hour, minute, second, zone =
    text:match "^(%d%d%d%d)%-(%d%d)%-(%d%d)[Tt](%d%d):(%d%d):(%d%d%.?%d*)(.*)$"
  if not year then
    return nil
  end
  local sign, hours, minutes = zone:match "^([+-])(%d%d):(%d%d)$"
  if not sign and zone:upper() ~= "Z" then
    return nil
  end
  local offset = sign and (hours * 3600 + minutes * 60) * (sign == "-" and -1 or 1) or 0
  return seconds(tonumber(year), tonumber(month), tonumber(day), hour, minute, second) - offset
end

return dates
