// Runs llama.cpp as `kwaainet benchmark` runs our engine, and prints the same figures as one JSON object.
//
// llama.cpp's own llama-bench is not in the packages that carry its newest source, and it measures decoding
// from an empty cache and no load. This one uses the library as llama-bench does (its defaults: mapping,
// repacked weights, flash attention where it helps, F16 cache, 2048 tokens a batch in steps of 512, a thread
// pool that stays) and follows the course of our benchmark: load, first token, depth, and then rounds of
// prompt and answer.
//
// usage: llama_driver MODEL THREADS PROMPT GENERATE DEPTH BATCH REPEAT
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ggml-cpu.h"
#include "llama.h"

// Tokens of the prompt whose first answer ends the measured load, as in our benchmark.
static const int FIRST_PROMPT_TOKENS = 8;

static double now_s() {
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

[[noreturn]] static void fail(const char *sentence) {
    std::fprintf(stderr, "llama_driver: %s\n", sentence);
    std::exit(1);
}

// Ids without meaning, another beginning for each seed.
static std::vector<llama_token> make_prompt(int count, int vocabulary, uint64_t seed) {
    std::vector<llama_token> prompt;
    uint64_t state = seed;
    for (int i = 0; i < count; i++) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        prompt.push_back((llama_token)(i == 0 ? seed % vocabulary : (state >> 33) % vocabulary));
    }
    return prompt;
}

// A field of /proc/self/status, in bytes; 0 where the system does not tell.
static long long status_bytes(const char *field) {
    long long kilobytes = 0;
    if (FILE *file = std::fopen("/proc/self/status", "r")) {
        char line[256];
        while (std::fgets(line, sizeof line, file)) {
            if (!std::strncmp(line, field, std::strlen(field))) {
                kilobytes = std::atoll(line + std::strlen(field));
            }
        }
        std::fclose(file);
    }
    return kilobytes * 1024;
}

struct Runner {
    llama_context *context;
    llama_batch batch;
    int batch_tokens;

    void clear() { batch.n_tokens = 0; }

    void add(llama_token token, llama_pos position, llama_seq_id sequence, bool wants_logits) {
        int i = batch.n_tokens++;
        batch.token[i] = token;
        batch.pos[i] = position;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = sequence;
        batch.logits[i] = wants_logits;
    }

    void decode() {
        if (batch.n_tokens > 0 && llama_decode(context, batch) != 0) {
            fail("llama_decode failed");
        }
        clear();
    }

    // Reads a prompt from `position` on; the last token's logits are computed.
    void prefill(const std::vector<llama_token> &prompt, int position, int sequence, bool wants_logits) {
        for (size_t i = 0; i < prompt.size(); i++) {
            bool last = i + 1 == prompt.size();
            add(prompt[i], position + (int)i, sequence, last && wants_logits);
            if (last || batch.n_tokens == batch_tokens) {
                decode();
            }
        }
    }
};

static llama_token best(const float *logits, int vocabulary) {
    return (llama_token)(std::max_element(logits, logits + vocabulary) - logits);
}

int main(int count, char **arguments) {
    double start = now_s();
    if (count != 8) {
        fail("usage: llama_driver MODEL THREADS PROMPT GENERATE DEPTH BATCH REPEAT");
    }
    const char *path = arguments[1];
    int threads = std::atoi(arguments[2]), prompt_tokens = std::atoi(arguments[3]);
    int generate_tokens = std::atoi(arguments[4]), depth = std::atoi(arguments[5]);
    int sequences = std::atoi(arguments[6]), repeat = std::atoi(arguments[7]);
    if (threads < 1 || prompt_tokens < 1 || generate_tokens < 1 || depth < 0 || sequences < 1 || repeat < 1) {
        fail("a number is too small");
    }
    auto say_errors = [](ggml_log_level level, const char *text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) {
            std::fputs(text, stderr);
        }
    };
    llama_log_set(say_errors, nullptr);
    llama_backend_init();

    llama_model *model = llama_model_load_from_file(path, llama_model_default_params());
    if (!model) {
        fail("the model was not loaded");
    }
    llama_context_params options = llama_context_default_params();
    int length = std::max(depth + prompt_tokens + generate_tokens, 2 * FIRST_PROMPT_TOKENS);
    options.n_ctx = (uint32_t)(length * sequences);
    options.n_seq_max = (uint32_t)sequences;
    options.n_outputs_max = (uint32_t)sequences;
    options.n_threads = options.n_threads_batch = threads;
    llama_context *context = llama_init_from_model(model, options);
    if (!context) {
        fail("the context was not made");
    }
    ggml_threadpool_params pool_options = ggml_threadpool_params_default(threads);
    ggml_threadpool *pool = ggml_threadpool_new(&pool_options);
    llama_attach_threadpool(context, pool, nullptr);
    double load_s = now_s() - start;

    int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    int batch_tokens = (int)llama_n_batch(context);
    Runner runner = {context, llama_batch_init(batch_tokens, 0, 1), batch_tokens};
    llama_memory_t memory = llama_get_memory(context);
    uint64_t seed = 0;

    runner.prefill(make_prompt(FIRST_PROMPT_TOKENS, vocabulary, seed++), 0, 0, true);
    llama_token first = best(llama_get_logits_ith(context, -1), vocabulary);
    double first_token_s = now_s() - start;
    llama_memory_clear(memory, true);

    double prefill = 0, decode = 0;
    for (int s = 0; s < sequences && depth > 0; s++) {
        runner.prefill(make_prompt(depth, vocabulary, seed++), 0, s, false);
    }
    llama_synchronize(context);
    for (int round = 0; round < repeat; round++) {
        for (int s = 0; s < sequences; s++) {
            llama_memory_seq_rm(memory, s, depth, -1);
        }
        std::vector<std::vector<llama_token>> prompts;
        for (int s = 0; s < sequences; s++) {
            prompts.push_back(make_prompt(prompt_tokens, vocabulary, seed++));
        }
        double begin = now_s();
        for (int s = 0; s < sequences; s++) {
            runner.prefill(prompts[s], depth, s, true);
        }
        llama_synchronize(context);
        double filled = now_s();
        // Which tokens follow does not matter to the speed; choosing them is not counted, here as in ours.
        std::vector<llama_token> answer = make_prompt(generate_tokens, vocabulary, seed++);
        for (int t = 0; t < generate_tokens; t++) {
            for (int s = 0; s < sequences; s++) {
                runner.add(answer[t], depth + prompt_tokens + t, s, true);
            }
            runner.decode();
            llama_synchronize(context);
        }
        double end = now_s();
        prefill = std::max(prefill, (double)prompt_tokens * sequences / (filled - begin));
        decode = std::max(decode, (double)generate_tokens * sequences / (end - filled));
    }
    std::printf(
        "{\"first_token\":%d,\"load_s\":%.6f,\"first_token_s\":%.6f,\"prefill_tokens_per_s\":%.4f,"
        "\"decode_tokens_per_s\":%.4f,\"memory\":{\"resident_bytes_peak\":%lld,\"anonymous_bytes\":%lld},"
        "\"system\":\"%s\"}\n",
        first, load_s, first_token_s, prefill, decode,
        status_bytes("VmHWM:"), status_bytes("RssAnon:"), llama_print_system_info());
    llama_batch_free(runner.batch);
    llama_free(context);
    ggml_threadpool_free(pool);
    llama_model_free(model);
    llama_backend_free();
}
