rockspec_format = "3.0"
package = "weft"
version = "scm-1"
source = {
  url = "file://.", -- for `luarocks make` in a checkout
}
description = {
  summary = "Structured concurrency: closures that run on native threads, awaited as an errgroup",
  detailed = [[
    A script declares pipeline stages and parallel model calls as closures; they run on native
    threads, and the script awaits the group. Contexts, errgroups, pools, channels, and HTTP that
    parks a task instead of a thread. For Lua 5.4 and LuaJIT 2.1; needs libcurl.
    JSON is decoded by lua-cjson or dkjson, whichever is installed.]],
  license = "MIT",
}
supported_platforms = { "unix" }
dependencies = {
  "lua >= 5.1, < 5.5", -- of 5.1 only LuaJIT: `make rock` refuses PUC Lua 5.1 to 5.3
}
external_dependencies = {
  CURL = {}, -- macOS has it where LuaRocks does not look; CURL_DIR=… names another
  platforms = {
    linux = { CURL = { library = "curl" } }, -- Debian: libcurl4-openssl-dev
  },
}
build = {
  type = "make",
  build_target = "rock",
  install_target = "install",
  variables = { -- folders of its own: objects of another Lua or other flags are not taken for ours
    LUA_INCDIR = "$(LUA_INCDIR)",
    BUILD = "build/rock$(LUA_INCDIR)",
    CORE_BUILD = "build/rock/core",
  },
  build_variables = {
    CC = "$(CC)",
    CFLAGS = "$(CFLAGS)",
    LIBFLAG = "$(LIBFLAG)",
    CURL_INCDIR = "$(CURL_INCDIR)",
    CURL_LIBDIR = "$(CURL_LIBDIR)",
  },
  install_variables = {
    LUADIR = "$(LUADIR)",
    LIBDIR = "$(LIBDIR)",
  },
  copy_directories = { "docs" },
}
