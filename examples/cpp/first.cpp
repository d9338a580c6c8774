// Lists the models of a registry and reads the first bytes of each file, verified.
//
//   first ROOT              of the registry at ROOT, which is only read
//   first ROOT FILE NAME    takes FILE in as the model NAME before, and makes the registry where there is none

#include <iostream>
#include <securereg.hpp>

int main(int argc, char** argv) try {
    if (argc != 2 && argc != 4) {
        std::cerr << "usage: first ROOT [FILE NAME]\n";
        return 2;
    }
    const auto mode = argc == 4 ? securereg::Mode::create : securereg::Mode::read;
    const auto registry = securereg::Registry::open(argv[1], mode);
    if (argc == 4) registry.promote(argv[2], argv[3]);
    for (const securereg::Model& model : registry.models()) {
        std::cout << model.name() << " " << model.sha256() << " " << model.size_bytes() << " bytes\n";
        if (const auto quarantine = model.quarantine()) {
            std::cout << "  quarantined: " << quarantine->reason << "\n";
            continue;
        }
        for (const securereg::ModelFile& info : model.files()) {
            const securereg::File file = registry.open_file(model.name(), info.path);
            const auto head = file.read(0, 4);  // checked against what was promoted, or an exception
            std::cout << "  " << info.path << " begins with";
            for (const std::byte byte : head) std::cout << ' ' << std::to_integer<int>(byte);
            std::cout << "\n";
        }
    }
} catch (const securereg::Error& error) {
    std::cerr << "first: " << securereg::to_string(error.status()) << ": " << error.what() << "\n";
    return 1;
}
