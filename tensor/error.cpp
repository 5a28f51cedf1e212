#include "tensor/error.h"

#include <locale>

namespace kvt {

Complaint::Complaint() { text.imbue(std::locale::classic()); }
Complaint::~Complaint() = default;
void Complaint::raise(Trouble trouble) const { throw Error(text.str(), trouble); }

}  // namespace kvt
