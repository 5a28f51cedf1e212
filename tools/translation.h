// What kvt translate and kvt eval share: an encoder–decoder model, and lines through it.
#pragma once
#include <CLI/CLI.hpp>

#include "engine/bleu.h"
#include "engine/seq2seq_file.h"
#include "engine/translate.h"

namespace kvt {

struct TranslationOptions {
  std::string model;
  std::vector<std::string> adapters;      // FILE or FILE:SCALE
  int threads = 0;
  TranslateOptions search;
};

// -m, --adapter, -t, --beam, --length-penalty, --most, --batch
void add_translation_options(CLI::App& command, TranslationOptions& options);

struct TranslatedLine { std::string text; Translation detail; };
// One for each line; empty lines stay empty. Throws Interrupted after ^C.
std::vector<TranslatedLine> translate_lines(const TranslationOptions& options, const std::vector<std::string>& lines);

// "BLEU|signature = score …", or one JSON object
void print_bleu(const BleuScore& score, const BleuOptions& options, bool json);

}  // namespace kvt
