// A model load like engine.py's, for what the Python package cannot do: direct I/O, and a stop at a chosen
// point so that the stored file can be changed behind a reader that already has it open. The same output.
//
//   loader MODE MODEL [open|load]     MODE: none, mmap, mlock, mmap+mlock, dio (llama.cpp's own names)
//
// open  stop between open+fstat of the model and llama.cpp's first read through that descriptor
// load  stop after llama.cpp has opened (and mapped) the model, before it takes the first tensor's data
// At the stop it prints `paused` and waits for a line on stdin.

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "llama.h"

static const char prompt[] = "hello the cat";
static const int count = 12;

[[noreturn]] static void fail(const std::string & what) {
    std::cerr << "loader: " << what << "\n";
    std::exit(1);
}

static void pause_here() {
    std::cout << "paused" << std::endl;
    std::string line;
    std::getline(std::cin, line);
}

// llama.cpp calls this before each tensor; the first time is the stop.
static bool on_progress(float, void * paused) {
    bool & done = *static_cast<bool *>(paused);
    if (!done) {
        done = true;
        pause_here();
    }
    return true;
}

static std::vector<llama_token> generate(llama_model * model) {
    llama_context_params cparams = llama_context_default_params();
    cparams.n_ctx = 64;
    cparams.n_threads = cparams.n_threads_batch = 2;
    // As the Python package: flash attention rounds otherwise, and the ids of a random model hang on small margins.
    cparams.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, cparams);
    if (!context) fail("no context");

    std::vector<llama_token> tokens(64), ids;
    int n = llama_tokenize(llama_model_get_vocab(model), prompt, std::strlen(prompt), tokens.data(), tokens.size(), true, true);
    if (n <= 0) fail("the prompt gives no tokens");
    tokens.resize(n);

    llama_sampler * greedy = llama_sampler_init_greedy();
    llama_batch batch = llama_batch_get_one(tokens.data(), tokens.size());
    while (static_cast<int>(ids.size()) < count) {
        if (llama_decode(context, batch) != 0) fail("decode");
        ids.push_back(llama_sampler_sample(greedy, context, -1));
        batch = llama_batch_get_one(&ids.back(), 1);
    }
    return ids;
}

static bool ends_with(const std::string & text, const std::string & end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

int main(int argc, char ** argv) {
    if (argc < 3) fail("usage: loader MODE MODEL [open|load]");
    const std::string mode = argv[1], stop = argc > 3 ? argv[3] : "";
    const char * path = argv[2];

    bool paused = false;
    llama_model_params params = llama_model_default_params();
    params.load_mode = llama_load_mode_from_str(mode.c_str());
    if (mode != llama_load_mode_name(params.load_mode)) fail("no such mode: " + mode);
    if (stop == "load") {
        params.progress_callback = on_progress;
        params.progress_callback_user_data = &paused;
    }

    llama_backend_init();
    llama_model * model;
    if (stop == "open") {
        struct stat st;
        FILE * file = std::fopen(path, "rb");
        if (!file || fstat(fileno(file), &st) != 0) fail(std::string("open: ") + std::strerror(errno));
        pause_here();
        model = llama_model_load_from_file_ptr(file, params);
    } else {
        model = llama_model_load_from_file(path, params);
    }
    if (!model) fail("load failed");

    std::cout << "ids";
    for (llama_token id : generate(model)) std::cout << ' ' << id;
    std::cout << "\n";
    std::ifstream maps("/proc/self/maps"), status("/proc/self/status");
    for (std::string line; std::getline(maps, line);)
        if (ends_with(line, ".gguf")) std::cout << "maps " << line << "\n";
    for (std::string line; std::getline(status, line);)
        if (line.rfind("VmLck:", 0) == 0) std::cout << "locked " << std::strtol(line.c_str() + 6, nullptr, 10) << "\n";
    std::cout.flush();
    std::_Exit(0);  // the checks are about loading; tearing the engine down is not
}
