#include "tools/eval_images.h"

#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "engine/classify.h"
#include "engine/load_encoder.h"
#include "engine/text_classes.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/image_files.h"

namespace kvt {

void eval_images(const ModelOptions& o, const std::string& path, int64_t batch, bool json) {
  interrupted();
  const Gguf gguf = Gguf::open(o.model);
  const auto model = load_vit(gguf);
  std::optional<Fusion> fusion = load_adapters(*model, gguf, o.adapters, o.any_base);
  for (const std::string& adapter : o.adapters)
    if (const Gguf file = Gguf::open(split_scale(adapter).first); file.find_tensor("kvt.head.weight")) load_head(model->output, file);
  require(!o.fusion || !o.adapters.empty(), "fusion is of an adapter with its base: name an --adapter");
  if (o.fusion) fusion = o.fusion;
  if (o.no_fusion) fusion.reset();
  const VitConfig& c = model->config();
  const Images images = read_images(path, c.image_size, c.image_channels);
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const Accuracy a = accuracy(*model, images, vit_normalisation(gguf, c.image_channels), batch, [&](const Accuracy& so_far) {
    if (terminal) std::fprintf(stderr, "\r%lld of %lld", static_cast<long long>(so_far.examples), static_cast<long long>(images.count()));
    return !interrupted();
  }, fusion);
  if (terminal) std::fprintf(stderr, "\r\x1b[K");
  if (interrupted()) throw Interrupted();
  const auto share = [&](int64_t n) { return 100 * double(n) / double(a.examples); };
  if (json)
    std::printf("%s\n", nlohmann::json({{"images", a.examples}, {"top1", a.top1}, {"top5", a.top5}, {"macro_f1", a.by_class.macro_f1()}, {"nll", a.nll / double(a.examples)}}).dump().c_str());
  else
    std::printf("top-1 %lld/%lld = %.2f %%   top-5 %lld/%lld = %.2f %%   macro F1 %.4f   mean loss %.5f\n", static_cast<long long>(a.top1), static_cast<long long>(a.examples),
                share(a.top1), static_cast<long long>(a.top5), static_cast<long long>(a.examples), share(a.top5), a.by_class.macro_f1(), a.nll / double(a.examples));
}

}  // namespace kvt
