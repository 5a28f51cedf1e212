// Precompiled for the tools: the two large header-only libraries they use.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
