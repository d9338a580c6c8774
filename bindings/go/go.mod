module example.invalid/securereg/bindings/go

go 1.24
