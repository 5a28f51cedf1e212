#include "tools/eval_texts.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "tools/commands.h"
#include "tools/text_model.h"
#include "tools/training_data.h"

namespace kvt {

void eval_texts(const EvalTextsOptions& o) {
  interrupted();
  const TextModel m = open_text_model(o.model, false);
  const std::vector<LabelledText> texts = read_labelled(o.file);
  ClassSettings settings;
  if (!o.label_words.empty()) {
    require(m.lm != nullptr, "eval: --label-words is for language models; ", o.model.model, " is an encoder");
    std::set<std::string> names;
    for (const LabelledText& t : texts) names.insert(t.label);
    settings.names.assign(names.begin(), names.end());
    settings.text = o.text;
    settings.length = o.length;
    settings.words = parse_words(o.label_words, settings.names, settings.text);
  } else {
    require(m.classes.has_value(), "eval: neither ", o.model.model, " nor an --adapter has classes (kvt adapt --task classify); --label-words does without");
    settings = *read_classes(*m.classes);
  }
  TextClassifier classifier = m.classifier();
  prepare(classifier, settings, *m.tokenizer, m.classes && settings.words.empty() ? &*m.classes : nullptr);
  classifier.fusion = m.fusion;
  const LabelledTexts data(texts, settings, *m.tokenizer);

  const bool terminal = isatty(STDERR_FILENO) != 0;
  const Accuracy a = accuracy(classifier, data, o.batch, [&](const Accuracy& so_far) {
    if (terminal) std::fprintf(stderr, "\r%lld of %lld", static_cast<long long>(so_far.examples), static_cast<long long>(data.size()));
    return !interrupted();
  });
  if (terminal) std::fprintf(stderr, "\r\x1b[K");
  if (interrupted()) throw Interrupted();
  const double share = double(a.top1) / double(a.examples), loss = a.nll / double(a.examples);
  if (o.json) {
    nlohmann::json f1 = nlohmann::json::object();
    for (size_t c = 0; c < settings.names.size(); ++c) {
      const double x = a.by_class.f1(int64_t(c));
      f1[settings.names[c]] = std::isnan(x) ? nlohmann::json(nullptr) : nlohmann::json(x);
    }
    std::printf("%s\n", nlohmann::json({{"texts", a.examples}, {"right", a.top1}, {"accuracy", share}, {"macro_f1", a.by_class.macro_f1()}, {"nll", loss}, {"f1", f1}})
                            .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return;
  }
  std::printf("accuracy %lld/%lld = %.2f %%   macro F1 %.4f   mean loss %.4f\n", static_cast<long long>(a.top1), static_cast<long long>(a.examples), 100 * share,
              a.by_class.macro_f1(), loss);
  for (size_t c = 0; c < settings.names.size(); ++c) std::printf("  %-24s F1 %.4f\n", settings.names[c].c_str(), a.by_class.f1(int64_t(c)));
}

}  // namespace kvt
