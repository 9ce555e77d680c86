// Parses llama-server's arguments with llama.cpp's own parser and prints what it read, one JSON object.
// Built by test_launch_lines.py against the libraries that llama-cpp-python installs.
#include "arg.h"
#include "common.h"

#include <cstdio>
#include <string>

static std::string json_text(const std::string & text) {
    std::string out = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
        }
        out += c;
    }
    return out + "\"";
}

int main(int argc, char ** argv) {
    common_params params;
    if (!common_params_parse(argc, argv, params, LLAMA_EXAMPLE_SERVER)) {
        return 2;
    }
    std::printf(
        "{\"model\": %s, \"hf_repo\": %s, \"n_ctx\": %d, \"n_parallel\": %d, \"type_k\": %s, \"type_v\": %s, "
        "\"flash_attn\": %s, \"n_gpu_layers\": %d, \"cache_prompt\": %s, \"no_mmproj\": %s}\n",
        json_text(params.model.path).c_str(), json_text(params.model.hf_repo).c_str(), params.n_ctx, params.n_parallel,
        json_text(ggml_type_name(params.cache_type_k)).c_str(), json_text(ggml_type_name(params.cache_type_v)).c_str(),
        params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_ENABLED ? "\"on\"" :
        params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED ? "\"off\"" : "\"auto\"",
        params.n_gpu_layers, params.cache_prompt ? "true" : "false", params.no_mmproj ? "true" : "false");
    return 0;
}
