package securereg

// #include "shim.h"
import "C"

import (
	"encoding/binary"
	"math"
	"runtime"
	"unsafe"
)

// GGUF is the header of a GGUF file, without its weights.
type GGUF struct {
	Version    uint32 // 2 or 3
	DataOffset uint64 // where tensor data begins, in bytes from the start of the file
	Alignment  uint64
	Pairs      []Pair   // the metadata, in file order
	Tensors    []Tensor // in file order
}

// ValueType is ggml's gguf_type.
type ValueType uint32

const (
	Uint8 ValueType = iota
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Float32
	Bool
	String
	Array
	Uint64
	Int64
	Float64
)

// Pair is a metadata pair.
type Pair struct {
	Key  string
	Type ValueType
	// Of an array: the type and the number of its values.
	ArrayType ValueType
	Count     uint64
	// By its type: uint64, int64, float64, bool or string (which may not be UTF-8); of an array a slice of exactly its
	// type, such as []uint8, []float32 or []string; nil of an array of arrays.
	Value any
}

// Tensor is a tensor of a GGUF file.
type Tensor struct {
	Name       string
	Type       string   // ggml's name of it, such as "Q4_K"
	TypeID     uint32   // ggml's number of it
	Dimensions []uint64 // 1 to 4, ne0 (the innermost) first
	Offset     uint64   // of its data from the start of the file: what File.ReadAt takes
	SizeBytes  uint64
}

// Get gives the value of a key, such as "general.architecture"; nil and false where there is none.
func (g *GGUF) Get(key string) (any, bool) {
	for i := range g.Pairs {
		if g.Pairs[i].Key == key {
			return g.Pairs[i].Value, true
		}
	}
	return nil, false
}

// ReadGGUF reads the header of the GGUF file at path inside the promoted model name, verified; "" is its only one.
// [ErrRefused] when it is not a sound GGUF.
func (r *Registry) ReadGGUF(name, path string) (*GGUF, error) {
	defer runtime.KeepAlive(r)
	var w words
	defer w.free()
	cName, cPath := w.text("the name", name), w.optional("the path", path)
	if w.err != nil {
		return nil, w.err
	}
	var h C.securereg_gguf
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_gguf_open(r.h, cName, cPath, &h, e) })
	if err != nil {
		return nil, err
	}
	defer C.securereg_gguf_free(h)
	var info C.securereg_gguf_info
	info.size = C.size_t(unsafe.Sizeof(info))
	err = call(func(e *C.securereg_error) C.securereg_status { return C.securereg_gguf_get(h, &info, e) })
	if err != nil {
		return nil, err
	}
	g := &GGUF{Version: uint32(info.version), DataOffset: uint64(info.data_offset), Alignment: uint64(info.alignment)}
	for at := C.uint64_t(0); at < info.pair_count; at++ {
		pair, err := pairAt(h, at)
		if err != nil {
			return nil, err
		}
		g.Pairs = append(g.Pairs, pair)
	}
	for at := C.uint64_t(0); at < info.tensor_count; at++ {
		tensor, err := tensorAt(h, at)
		if err != nil {
			return nil, err
		}
		g.Tensors = append(g.Tensors, tensor)
	}
	return g, nil
}

func pairAt(h C.securereg_gguf, at C.uint64_t) (Pair, error) {
	var c C.securereg_gguf_pair
	c.size = C.size_t(unsafe.Sizeof(c))
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_gguf_pair_at(h, at, &c, e) })
	if err != nil {
		return Pair{}, err
	}
	pair := Pair{
		Key: C.GoString(c.key), Type: ValueType(c.value_type), ArrayType: ValueType(c.array_type), Count: uint64(c.count),
	}
	switch pair.Type {
	case Uint8, Uint16, Uint32, Uint64:
		pair.Value = uint64(c.u64_value)
	case Int8, Int16, Int32, Int64:
		pair.Value = int64(c.i64_value)
	case Float32, Float64:
		pair.Value = float64(c.f64_value)
	case Bool:
		pair.Value = c.u64_value != 0
	case String:
		pair.Value = string(unsafe.Slice((*byte)(c.data), uint64(c.data_size)))
	case Array:
		if pair.ArrayType == String {
			pair.Value, err = stringsAt(h, at, pair.Count)
		} else if c.data != nil {
			pair.Value = unpacked(pair.ArrayType, copied(c.data, uint64(c.data_size)))
		}
	}
	return pair, err
}

// stringsAt fetches many strings in a call: a call into C costs more than a string.
func stringsAt(h C.securereg_gguf, pair C.uint64_t, count uint64) ([]string, error) {
	const batch = 1024
	var data [batch]*C.char
	var lens [batch]C.size_t
	all := make([]string, 0, count)
	for uint64(len(all)) < count {
		n := min(batch, count-uint64(len(all)))
		err := call(func(e *C.securereg_error) C.securereg_status {
			return C.securereg_go_strings(h, pair, C.uint64_t(len(all)), C.size_t(n), &data[0], &lens[0], e)
		})
		if err != nil {
			return nil, err
		}
		for i := range n {
			all = append(all, string(unsafe.Slice((*byte)(unsafe.Pointer(data[i])), uint64(lens[i]))))
		}
	}
	return all, nil
}

// unpacked makes a slice of packed, little-endian values.
func unpacked(of ValueType, bytes []byte) any {
	le := binary.LittleEndian
	switch of {
	case Uint8:
		return bytes
	case Int8:
		return each(bytes, 1, func(b []byte) int8 { return int8(b[0]) })
	case Bool:
		return each(bytes, 1, func(b []byte) bool { return b[0] != 0 })
	case Uint16:
		return each(bytes, 2, le.Uint16)
	case Int16:
		return each(bytes, 2, func(b []byte) int16 { return int16(le.Uint16(b)) })
	case Uint32:
		return each(bytes, 4, le.Uint32)
	case Int32:
		return each(bytes, 4, func(b []byte) int32 { return int32(le.Uint32(b)) })
	case Float32:
		return each(bytes, 4, func(b []byte) float32 { return math.Float32frombits(le.Uint32(b)) })
	case Uint64:
		return each(bytes, 8, le.Uint64)
	case Int64:
		return each(bytes, 8, func(b []byte) int64 { return int64(le.Uint64(b)) })
	case Float64:
		return each(bytes, 8, func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) })
	}
	return nil
}

func each[T any](bytes []byte, size int, value func([]byte) T) []T {
	values := make([]T, 0, len(bytes)/size)
	for ; len(bytes) >= size; bytes = bytes[size:] {
		values = append(values, value(bytes))
	}
	return values
}

func tensorAt(h C.securereg_gguf, at C.uint64_t) (Tensor, error) {
	var c C.securereg_gguf_tensor
	c.size = C.size_t(unsafe.Sizeof(c))
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_gguf_tensor_at(h, at, &c, e) })
	if err != nil {
		return Tensor{}, err
	}
	tensor := Tensor{
		Name: C.GoString(c.name), Type: C.GoString(c.type_name), TypeID: uint32(c.type_id),
		Offset: uint64(c.offset), SizeBytes: uint64(c.size_bytes),
	}
	for _, size := range c.dimensions[:c.dimension_count] {
		tensor.Dimensions = append(tensor.Dimensions, uint64(size))
	}
	return tensor, nil
}
