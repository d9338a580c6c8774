// A second unit that includes the header: what it defines must be inline.

#include "securereg.hpp"

const char* second() { return securereg::version(); }
