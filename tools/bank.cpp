// kvt bank: adapters of several domains in one file; a prompt, or each token, chooses among them.
#include <cstdio>
#include <filesystem>

#include "engine/bank.h"
#include "engine/fingerprint.h"
#include "tools/commands.h"
#include "tools/common.h"
#include "tools/training_report.h"

namespace kvt {

namespace {

struct Options {
  std::string bank, name, adapter, data;
  ModelOptions model;
};

void add(const Options& o) {
  const LoadedModel m = open_model(o.model);
  const Gguf adapter = Gguf::open(o.adapter);
  require(adapter.string("kvt.base.fingerprint", "") == fingerprint(m.gguf), o.adapter, ": trained on another base model than ", o.model.model);
  const std::vector<int32_t> ids = m.tokenizer->encode(read_text(o.data), {.add_special = false, .parse_special = false});
  require(!ids.empty(), o.data, ": no text");
  const Tensor center = domain_center(embedding(ids, {int64_t(ids.size())}, m.gguf.tensor("token_embd.weight")));
  std::optional<Gguf> bank;
  if (std::filesystem::exists(o.bank)) bank = Gguf::open(o.bank);
  bank_with(bank ? &*bank : nullptr, o.name, adapter, center).write(o.bank);
  std::fprintf(stderr, "%s: added '%s', known by %zu tokens of text\n", o.bank.c_str(), o.name.c_str(), ids.size());
}

void list(const Options& o) {
  const Gguf bank = Gguf::open(o.bank);
  std::printf("base %s, fingerprint %s\n", bank.string("general.architecture").c_str(), bank.string("kvt.base.fingerprint").c_str());
  for (const Domain& d : bank_domains(bank))
    std::printf("%-16s %4lld layers  %s bytes\n", d.name.c_str(), static_cast<long long>(d.layers), in_thousands(d.bytes).c_str());
}

}  // namespace

void add_bank(CLI::App& app) {
  CLI::App* c = app.add_subcommand("bank", "adapters of several domains in one file: add, list, remove");
  c->require_subcommand(1);
  auto o = std::make_shared<Options>();
  const auto file = [&](CLI::App* sub) { sub->add_option("bank", o->bank, "GGUF file of the bank")->required(); };

  CLI::App* adding = c->add_subcommand("add", "put a LoRA adapter into the bank, which is made if there is none");
  file(adding);
  add_model_options(*adding, o->model, false);
  adding->add_option("--name", o->name, "name of the domain: letters, digits, - and _")->required();
  adding->add_option("--adapter", o->adapter, "its adapter GGUF, trained on this model")->required();
  adding->add_option("--data", o->data, "a text of the domain, by which prompts and tokens are recognised as its own")->required();
  adding->callback([o] { add(*o); });

  CLI::App* listing = c->add_subcommand("list", "print the domains");
  file(listing);
  listing->callback([o] { list(*o); });

  CLI::App* removing = c->add_subcommand("remove", "take a domain out; the others stay byte for byte");
  file(removing);
  removing->add_option("--name", o->name, "the domain")->required();
  removing->callback([o] { bank_without(Gguf::open(o->bank), o->name).write(o->bank); });
  c->footer("Examples:\n  kvt bank add domains.gguf -m model.gguf --name law --adapter law.gguf --data law.txt\n  kvt bank list domains.gguf\n"
            "  kvt run -m model.gguf --adapter domains.gguf -p \"The court\"                    each token by the text up to it\n"
            "  kvt run -m model.gguf --adapter domains.gguf --domain law -p \"The court\"");
}

}  // namespace kvt
