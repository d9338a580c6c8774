package securereg

import (
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// FS shows the files of one model as a file system: read-only, every byte checked. What it shows is the model as it was
// when the FS was made: once the name stands for other content, opening is [ErrSourceChanged], so that no reader mixes the
// files of two models.
type FS struct {
	registry *Registry
	model    Model
	entries  map[string]*entry
}

var (
	_ fs.ReadDirFS = (*FS)(nil)
	_ fs.StatFS    = (*FS)(nil)
)

// FS makes a file system of a model's files.
func (r *Registry) FS(name string) (*FS, error) {
	model, err := r.Lookup(name)
	if err != nil {
		return nil, err
	}
	root := &entry{name: ".", time: model.PromotedAt, children: []fs.DirEntry{}}
	f := &FS{registry: r, model: model, entries: map[string]*entry{".": root}}
	for i := range model.Files {
		file := &model.Files[i]
		f.entries[file.Path] = &entry{name: path.Base(file.Path), time: model.PromotedAt, file: file}
		f.link(file.Path)
	}
	for _, e := range f.entries {
		slices.SortFunc(e.children, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	}
	return f, nil
}

// link puts the entry at name into its folder, and makes that if need be.
func (f *FS) link(name string) {
	above := path.Dir(name)
	folder, known := f.entries[above]
	if !known {
		folder = &entry{name: path.Base(above), time: f.model.PromotedAt, children: []fs.DirEntry{}}
		f.entries[above] = folder
		f.link(above)
	}
	folder.children = append(folder.children, fs.FileInfoToDirEntry(f.entries[name]))
}

// Model is the model it shows.
func (f *FS) Model() Model { return f.model }

func (f *FS) find(op, name string) (*entry, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	e, ok := f.entries[name]
	if !ok {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return e, nil
}

// Open opens a file or a folder.
func (f *FS) Open(name string) (fs.File, error) {
	e, err := f.find("open", name)
	if err != nil {
		return nil, err
	}
	if e.file == nil {
		return &openFolder{entry: e}, nil
	}
	file, err := f.registry.OpenFile(f.model.Name, name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	// After opening: if it is still the same now, it was the same then.
	digest, err := f.registry.digest(f.model.Name)
	if err == nil && digest != f.model.SHA256 {
		err = &Error{
			Status: ErrSourceChanged, Message: f.model.Name + " stands for other content now: make a new FS",
			Model: f.model.Name, Expected: f.model.SHA256, Actual: digest,
		}
	}
	if err != nil {
		file.Close()
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &openFile{File: file, entry: e}, nil
}

// Stat tells of a file or a folder without opening it.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	e, err := f.find("stat", name)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// ReadDir lists a folder, sorted by name.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := f.find("readdir", name)
	if err != nil {
		return nil, err
	}
	if e.file != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	return append([]fs.DirEntry{}, e.children...), nil
}

// entry is a file, or a folder with its children; and an fs.FileInfo.
type entry struct {
	name     string
	time     time.Time
	file     *ModelFile // nil of a folder
	children []fs.DirEntry
}

func (e *entry) Name() string       { return e.name }
func (e *entry) ModTime() time.Time { return e.time }
func (e *entry) IsDir() bool        { return e.file == nil }

func (e *entry) Size() int64 {
	if e.file == nil {
		return 0
	}
	return int64(e.file.SizeBytes)
}

func (e *entry) Mode() fs.FileMode {
	if e.file == nil {
		return fs.ModeDir | 0o555
	}
	return 0o444
}

// Sys is the [ModelFile], with its digests; nil of a folder.
func (e *entry) Sys() any {
	if e.file == nil {
		return nil
	}
	return *e.file
}

type openFile struct {
	*File
	entry *entry
}

func (f *openFile) Stat() (fs.FileInfo, error) { return f.entry, nil }

type openFolder struct {
	entry  *entry
	at     int
	closed bool
}

func (d *openFolder) Stat() (fs.FileInfo, error) { return d.entry, nil }

func (d *openFolder) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.entry.name, Err: fs.ErrInvalid}
}

func (d *openFolder) Close() error {
	d.closed = true
	return nil
}

func (d *openFolder) ReadDir(n int) ([]fs.DirEntry, error) {
	if d.closed {
		return nil, &fs.PathError{Op: "readdir", Path: d.entry.name, Err: fs.ErrClosed}
	}
	left := d.entry.children[d.at:]
	if n > 0 {
		if len(left) == 0 {
			return nil, io.EOF
		}
		left = left[:min(n, len(left))]
	}
	d.at += len(left)
	return append([]fs.DirEntry{}, left...), nil
}
