package securereg_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"time"

	securereg "example.invalid/securereg/bindings/go"
)

var ctx = context.Background()

// data is a file of the project's tests/data.
func data(t testing.TB, name string) string {
	t.Helper()
	folder := os.Getenv("SECUREREG_TEST_DATA")
	if folder == "" {
		folder = "../../tests/data"
	}
	path, err := filepath.Abs(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func slurp(t testing.TB, path string) []byte {
	t.Helper()
	bytes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// fresh is a registry in a folder of its own.
func fresh(t testing.TB) (*securereg.Registry, string) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	r, err := securereg.Open(root, securereg.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, root
}

// tiny is a registry with one model of one file, "tiny", and that file's bytes.
func tiny(t testing.TB) (*securereg.Registry, string, []byte) {
	t.Helper()
	r, root := fresh(t)
	promote(t, r, "tiny-llama.gguf", "tiny")
	return r, root, slurp(t, data(t, "tiny-llama.gguf"))
}

func promote(t testing.TB, r *securereg.Registry, file, name string) securereg.Promotion {
	t.Helper()
	p, err := r.Promote(ctx, data(t, file), name, securereg.PromoteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// damage changes one byte of a stored file behind the library's back.
func damage(t testing.TB, root, sha256 string, at int64) {
	t.Helper()
	path := filepath.Join(root, "blobs", "sha256", sha256)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	one := make([]byte, 1)
	if _, err := f.ReadAt(one, at); err != nil {
		t.Fatal(err)
	}
	one[0] ^= 1
	if _, err := f.WriteAt(one, at); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want fails unless err is a *securereg.Error of this status, which it returns.
func want(t testing.TB, err error, status securereg.Status) *securereg.Error {
	t.Helper()
	var e *securereg.Error
	if !errors.Is(err, status) || !errors.As(err, &e) {
		t.Fatalf("got %v, want %v", err, status)
	}
	return e
}

func TestWhatIsPromotedIsTold(t *testing.T) {
	r, _ := fresh(t)
	before, err := r.Generation()
	must(t, err)
	file := data(t, "tiny-llama.gguf")
	var most uint64
	watching := securereg.WithProgress(ctx, func(phase securereg.Phase, done, total uint64) {
		if done > total {
			t.Errorf("phase %d: %d of %d", phase, done, total)
		}
		most = max(most, done)
	})
	size := uint64(len(slurp(t, file)))
	p, err := r.Promote(watching, file, "tiny", securereg.PromoteOptions{
		Format: "gguf", Source: "https://example.org", SizeBytes: size, Evidence: json.RawMessage(`{"scanner": "none"}`),
	})
	must(t, err)
	m := p.Model
	if p.Outcome != securereg.Promoted || m.Name != "tiny" || m.Format != "gguf" || m.Layout != "file" ||
		m.Source != "https://example.org" || m.SizeBytes != size || m.Quarantine != nil || most != size ||
		time.Since(m.PromotedAt) > time.Hour || len(m.SHA256) != 64 {
		t.Errorf("%+v, progress to %d", p, most)
	}
	if len(m.Files) != 1 || m.Files[0].Path != "tiny-llama.gguf" || m.Files[0].SHA256 != m.SHA256 ||
		len(m.Files[0].BLAKE3) != 64 || m.Files[0].SizeBytes != size {
		t.Errorf("%+v", m.Files)
	}
	if after, err := r.Generation(); err != nil || after <= before {
		t.Errorf("generation %d after %d, %v", after, before, err)
	}
	again, err := r.Promote(ctx, file, "tiny", securereg.PromoteOptions{})
	if err != nil || again.Outcome != securereg.AlreadyThere {
		t.Errorf("%+v, %v", again, err)
	}
	shared, err := r.Promote(ctx, file, "again", securereg.PromoteOptions{Filename: "again.gguf"})
	if err != nil || shared.Method != securereg.Shared {
		t.Errorf("%+v, %v", shared, err)
	}
	models, err := r.Models()
	if err != nil || len(models) != 2 || models[0].Name != "again" || models[1].SHA256 != m.SHA256 {
		t.Errorf("%+v, %v", models, err)
	}
	text, err := r.Describe("tiny")
	var described struct{ Scanner, SHA256 string }
	if err != nil || json.Unmarshal(text, &described) != nil || described.SHA256 != m.SHA256 || described.Scanner != "none" {
		t.Errorf("%s, %v", text, err)
	}
	_, err = r.MountPath("tiny")
	want(t, err, securereg.ErrNotMounted)
	must(t, r.Delete("again"))
	_, err = r.Lookup("again")
	want(t, err, securereg.ErrNotFound)
	moved := filepath.Join(t.TempDir(), "moved.gguf")
	must(t, os.WriteFile(moved, slurp(t, data(t, "gguf/d-single.gguf")), 0o600))
	_, err = r.Promote(ctx, moved, "moved", securereg.PromoteOptions{Move: true})
	must(t, err)
	if _, err := os.Stat(moved); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the source is still there: %v", err)
	}
}

func TestErrorsSayWhatOnWhichModelAndBothDigests(t *testing.T) {
	r, root, _ := tiny(t)
	_, err := r.Promote(ctx, data(t, "gguf/d-single.gguf"), "other", securereg.PromoteOptions{SHA256: strings.Repeat("0", 64)})
	e := want(t, err, securereg.ErrDigestMismatch)
	if e.Expected != strings.Repeat("0", 64) || len(e.Actual) != 64 || e.Message == "" {
		t.Errorf("%+v", e)
	}
	_, err = r.OpenFile("tiny", "no")
	if e := want(t, err, securereg.ErrNotFound); e.Model != "tiny" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%+v", e)
	}
	_, err = r.Lookup("../etc")
	want(t, err, securereg.ErrInvalidInput)
	if !errors.Is(err, fs.ErrInvalid) || errors.Is(err, securereg.ErrNotFound) {
		t.Error(err)
	}
	_, err = r.Promote(ctx, data(t, "hostile/g05_ver4.gguf"), "hostile", securereg.PromoteOptions{})
	want(t, err, securereg.ErrRefused)
	_, err = r.Promote(ctx, data(t, "gguf/d-single.gguf"), "tiny", securereg.PromoteOptions{})
	want(t, err, securereg.ErrConflict)
	_, err = securereg.Open(filepath.Join(root, "none"), securereg.Options{})
	want(t, err, securereg.ErrNotFound)
	_, err = r.Integrity()
	want(t, err, securereg.ErrNotFound)
	reader, err := securereg.Open(root, securereg.Options{})
	must(t, err)
	defer reader.Close()
	err = reader.Delete("tiny")
	want(t, err, securereg.ErrPermission)
	if !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
	if got := securereg.ErrNotFound.Error(); got != "not_found" {
		t.Error(got)
	}
	if got := securereg.Version(); !strings.Contains(got, ".") {
		t.Error(got)
	}
}

func TestANULInAStringIsRefused(t *testing.T) {
	r, _, _ := tiny(t)
	const cut = "tiny\x00more"
	calls := map[string]func() error{
		"Open":       func() error { _, err := securereg.Open("/tmp\x00x", securereg.Options{}); return err },
		"Lookup":     func() error { _, err := r.Lookup(cut); return err },
		"Describe":   func() error { _, err := r.Describe(cut); return err },
		"MountPath":  func() error { _, err := r.MountPath(cut); return err },
		"Verify":     func() error { return r.Verify(ctx, cut) },
		"Quarantine": func() error { return r.Quarantine("tiny", "r", cut) },
		"reason":     func() error { return r.Quarantine("tiny", cut, "") },
		"Release":    func() error { return r.Release(ctx, "tiny", cut) },
		"Delete":     func() error { return r.Delete(cut) },
		"OpenFile":   func() error { _, err := r.OpenFile("tiny", "\x00"); return err },
		"OpenSealed": func() error { _, err := r.OpenSealed(ctx, "tiny", "\x00"); return err },
		"ReadGGUF":   func() error { _, err := r.ReadGGUF(cut, ""); return err },
		"FS":         func() error { _, err := r.FS(cut); return err },
		"path": func() error {
			_, err := r.Promote(ctx, data(t, "tiny-llama.gguf")+"\x00", "other", securereg.PromoteOptions{})
			return err
		},
	}
	for what, options := range map[string]securereg.PromoteOptions{
		"SHA256": {SHA256: cut}, "Format": {Format: cut}, "Filename": {Filename: cut}, "Source": {Source: cut},
		"Evidence": {Evidence: json.RawMessage(cut)},
	} {
		calls[what] = func() error {
			_, err := r.Promote(ctx, data(t, "tiny-llama.gguf"), "other", options)
			return err
		}
	}
	for what, f := range calls {
		t.Run(what, func(t *testing.T) { want(t, f(), securereg.ErrInvalidInput) })
	}
	if models, err := r.Models(); err != nil || len(models) != 1 || models[0].Quarantine != nil {
		t.Errorf("%+v, %v", models, err)
	}
}

func TestReadsGiveWhatWasPromotedUpToTheEnd(t *testing.T) {
	r, _, all := tiny(t)
	f, err := r.OpenFile("tiny", "")
	must(t, err)
	must(t, r.Close())
	if f.Size() != int64(len(all)) {
		t.Errorf("%d bytes, want %d", f.Size(), len(all))
	}
	const group = 65536
	for _, at := range []int{0, 1, group - 1, group, group + 1, len(all) - 1, len(all), len(all) + 1} {
		for _, size := range []int{0, 1, group, group + 1} {
			p := make([]byte, size)
			n, err := f.ReadAt(p, int64(at))
			rest := all[min(at, len(all)):]
			expected := rest[:min(size, len(rest))]
			if !bytes.Equal(p[:n], expected) || (err == io.EOF) != (n < size) || (err != nil && err != io.EOF) {
				t.Errorf("ReadAt(%d bytes, %d) = %d, %v", size, at, n, err)
			}
		}
	}
	if _, err := f.ReadAt(make([]byte, 1), -1); !errors.Is(err, securereg.ErrInvalidInput) {
		t.Error(err)
	}
	for _, c := range []struct {
		offset int64
		whence int
		want   int64
	}{{10, io.SeekStart, 10}, {5, io.SeekCurrent, 15}, {-1, io.SeekEnd, int64(len(all)) - 1}} {
		if got, err := f.Seek(c.offset, c.whence); err != nil || got != c.want {
			t.Errorf("Seek(%d, %d) = %d, %v", c.offset, c.whence, got, err)
		}
	}
	if rest, err := io.ReadAll(f); err != nil || !bytes.Equal(rest, all[len(all)-1:]) {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
	if _, err := f.Seek(-1, io.SeekStart); !errors.Is(err, securereg.ErrInvalidInput) {
		t.Error(err)
	}
	if _, err := f.Seek(0, 9); !errors.Is(err, securereg.ErrInvalidInput) {
		t.Error(err)
	}
	must(t, f.Close())
	_, err = f.ReadAt(make([]byte, 1), 0)
	want(t, err, securereg.ErrClosed)
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a second Close: %v", err)
	}
}

// Two groups: iotest reads byte by byte.
func TestAFilePassesIotest(t *testing.T) {
	r, _ := fresh(t)
	promote(t, r, "gguf/a-llama-2l.gguf", "small")
	f, err := r.OpenFile("small", "")
	must(t, err)
	defer f.Close()
	must(t, iotest.TestReader(f, slurp(t, data(t, "gguf/a-llama-2l.gguf"))))
}

func TestWhatIsClosedOrWasNeverOpenedHarmsNothing(t *testing.T) {
	r, _, _ := tiny(t)
	must(t, r.Close())
	_, err := r.Models()
	want(t, err, securereg.ErrClosed)
	want(t, r.Close(), securereg.ErrClosed)
	never := &securereg.Registry{}
	_, err = never.Lookup("tiny")
	want(t, err, securereg.ErrClosed)
	_, err = never.OpenSealed(ctx, "tiny", "")
	want(t, err, securereg.ErrClosed)
	_, err = never.Promote(ctx, data(t, "tiny-llama.gguf"), "tiny", securereg.PromoteOptions{})
	want(t, err, securereg.ErrClosed)
	must(t, never.Close())
	must(t, (&securereg.File{}).Close())
	must(t, (&securereg.Sealed{}).Close())
}

func TestADamagedByteIsAnErrorAndTheModelIsQuarantined(t *testing.T) {
	r, root, all := tiny(t)
	m, err := r.Lookup("tiny")
	must(t, err)
	must(t, r.Verify(ctx, "tiny"))
	must(t, r.VerifyAll(ctx))
	var report struct{ Checked int }
	text, err := r.Integrity()
	if err != nil || json.Unmarshal(text, &report) != nil || report.Checked != 1 {
		t.Errorf("%s, %v", text, err)
	}
	f, err := r.OpenFile("tiny", "")
	must(t, err)
	defer f.Close()
	files, err := r.FS("tiny")
	must(t, err)

	const at = 700000
	damage(t, root, m.SHA256, at)
	p := make([]byte, 10)
	if _, err := f.ReadAt(p, 0); err != nil || !bytes.Equal(p, all[:10]) {
		t.Errorf("another group: %v", err)
	}
	n, err := f.ReadAt(p, at)
	if e := want(t, err, securereg.ErrCorrupt); e.Model != "tiny" || n != 0 {
		t.Errorf("%d bytes, %+v", n, e)
	}
	_, err = r.OpenFile("tiny", "")
	want(t, err, securereg.ErrQuarantined)
	_, err = r.OpenSealed(ctx, "tiny", "")
	want(t, err, securereg.ErrQuarantined)
	_, err = r.ReadGGUF("tiny", "")
	want(t, err, securereg.ErrQuarantined)
	_, err = fs.ReadFile(files, "tiny-llama.gguf")
	want(t, err, securereg.ErrQuarantined)
	e := want(t, r.Verify(ctx, "tiny"), securereg.ErrCorrupt)
	if len(e.Expected) != 64 || len(e.Actual) != 64 || e.Expected == e.Actual {
		t.Errorf("%+v", e)
	}
	want(t, r.VerifyAll(ctx), securereg.ErrCorrupt)
	want(t, r.Release(ctx, "tiny", "hoping"), securereg.ErrCorrupt)
	bad, err := r.Lookup("tiny")
	if err != nil || bad.Quarantine == nil || bad.Quarantine.Cause != "integrity" {
		t.Errorf("%+v, %v", bad, err)
	}

	damage(t, root, m.SHA256, at) // and back
	must(t, r.Verify(ctx, "tiny"))
	if good, err := fs.ReadFile(files, "tiny-llama.gguf"); err != nil || !bytes.Equal(good, all) {
		t.Errorf("%d bytes, %v", len(good), err)
	}
}

func TestAnIncidentEndsReadsAndAReleaseBringsThemBack(t *testing.T) {
	r, _, _ := tiny(t)
	f, err := r.OpenFile("tiny", "")
	must(t, err)
	defer f.Close()
	must(t, r.Quarantine("tiny", "CVE-2026-1", "INC-7"))
	m, err := r.Lookup("tiny")
	if err != nil || *m.Quarantine != (securereg.Quarantine{Reason: "CVE-2026-1", Cause: "incident", IncidentID: "INC-7"}) {
		t.Errorf("%+v, %v", m.Quarantine, err)
	}
	_, err = f.ReadAt(make([]byte, 1), 0)
	want(t, err, securereg.ErrQuarantined)
	must(t, r.Release(ctx, "tiny", "a false alarm"))
	again, err := r.OpenFile("tiny", "")
	must(t, err)
	must(t, again.Close())
}

func TestAContextEndsLongWork(t *testing.T) {
	r, _, _ := tiny(t)
	cause := errors.New("the user left")
	// Ends as soon as the work is under way.
	ending := func() context.Context {
		c, cancel := context.WithCancelCause(ctx)
		return securereg.WithProgress(c, func(securereg.Phase, uint64, uint64) { cancel(cause) })
	}
	ended, cancel := context.WithCancelCause(ctx)
	cancel(cause)
	late, stop := context.WithDeadline(ctx, time.Unix(1, 0))
	defer stop()
	split := data(t, "split/tiny-00001-of-00002.gguf")
	calls := map[string]func(context.Context) error{
		"Promote": func(c context.Context) error {
			_, err := r.Promote(c, split, "other", securereg.PromoteOptions{})
			return err
		},
		"Verify":     func(c context.Context) error { return r.Verify(c, "tiny") },
		"VerifyAll":  func(c context.Context) error { return r.VerifyAll(c) },
		"Release":    func(c context.Context) error { return r.Release(c, "tiny", "fine") },
		"OpenSealed": func(c context.Context) error { _, err := r.OpenSealed(c, "tiny", ""); return err },
	}
	for what, f := range calls {
		t.Run(what, func(t *testing.T) {
			if what == "Release" {
				must(t, r.Quarantine("tiny", "a look", ""))
				defer func() { must(t, r.Release(ctx, "tiny", "fine")) }()
			}
			for _, c := range []context.Context{ending(), ended} {
				err := f(c)
				want(t, err, securereg.ErrCancelled)
				if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
					t.Errorf("%v is not the context's error", err)
				}
			}
			if err := f(late); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	if models, err := r.Models(); err != nil || len(models) != 1 {
		t.Errorf("%+v, %v", models, err)
	}
}

func TestAPanicInProgressComesOutOfTheCall(t *testing.T) {
	r, _, _ := tiny(t)
	c := securereg.WithProgress(ctx, func(securereg.Phase, uint64, uint64) { panic("mine") })
	split := data(t, "split/tiny-00001-of-00002.gguf")
	for what, f := range map[string]func(){
		"Promote":    func() { r.Promote(c, split, "other", securereg.PromoteOptions{}) },
		"Verify":     func() { r.Verify(c, "tiny") },
		"OpenSealed": func() { r.OpenSealed(c, "tiny", "") },
	} {
		t.Run(what, func(t *testing.T) {
			defer func() {
				if p := recover(); p != "mine" {
					t.Errorf("recovered %v", p)
				}
			}()
			f()
		})
	}
	must(t, r.Verify(ctx, "tiny"))
}

func TestFSPassesFstest(t *testing.T) {
	r, _ := fresh(t)
	folder := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(folder, "weights", "deep"), 0o755))
	model := slurp(t, data(t, "hostile/s00_ok.safetensors"))
	files := map[string][]byte{
		"config.json": []byte(`{"architectures": ["X"]}`), "model.safetensors": model,
		"weights/a.safetensors": model, "weights/deep/b.safetensors": model,
	}
	for name, content := range files {
		must(t, os.WriteFile(filepath.Join(folder, name), content, 0o644))
	}
	p, err := r.Promote(ctx, folder, "many", securereg.PromoteOptions{})
	must(t, err)
	if p.Model.Layout != "folder" || len(p.Model.Files) != len(files) {
		t.Fatalf("%+v", p.Model)
	}
	shown, err := r.FS("many")
	must(t, err)
	must(t, fstest.TestFS(shown, "config.json", "model.safetensors", "weights/a.safetensors", "weights/deep/b.safetensors"))
	below, err := fs.Sub(shown, "weights")
	must(t, err)
	must(t, fstest.TestFS(below, "a.safetensors", "deep/b.safetensors"))
	for name, content := range files {
		if got, err := fs.ReadFile(shown, name); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		info, err := fs.Stat(shown, name)
		must(t, err)
		if file, ok := info.Sys().(securereg.ModelFile); !ok || file.Path != name || len(file.SHA256) != 64 {
			t.Errorf("%s: %+v", name, info.Sys())
		}
	}
	for _, missing := range []string{"none", "weights/none", "config.json/x", "../x", "/config.json", ""} {
		if _, err := shown.Open(missing); err == nil {
			t.Errorf("%q was opened", missing)
		}
	}
	_, err = r.FS("none")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}

	promote(t, r, "gguf/a-llama-2l.gguf", "small")
	one, err := r.FS("small")
	must(t, err)
	must(t, fstest.TestFS(one, "a-llama-2l.gguf"))
}

func TestAnFSNeverMixesTheFilesOfTwoModels(t *testing.T) {
	r, _ := fresh(t)
	promote(t, r, "tiny-llama.gguf", "tiny:latest")
	before, err := r.FS("tiny:latest")
	must(t, err)
	name := before.Model().Files[0].Path
	copied := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(copied, slurp(t, data(t, "gguf/d-single.gguf")), 0o644))
	p, err := r.Promote(ctx, copied, "tiny:latest", securereg.PromoteOptions{})
	if err != nil || p.Outcome != securereg.Moved {
		t.Fatalf("%+v, %v", p, err)
	}
	_, err = before.Open(name)
	want(t, err, securereg.ErrSourceChanged)
	after, err := r.FS("tiny:latest")
	must(t, err)
	must(t, fstest.TestFS(after, name))
}

func TestSealedMemoryIsTheFileAndTakesNoWrite(t *testing.T) {
	r, _, all := tiny(t)
	s, err := r.OpenSealed(ctx, "tiny", "tiny-llama.gguf")
	must(t, err)
	memory, err := s.Bytes()
	if err != nil || !bytes.Equal(memory, all) {
		t.Errorf("%d bytes, %v", len(memory), err)
	}
	if s.Path() != fmt.Sprintf("/proc/self/fd/%d", s.Fd()) || !bytes.Equal(slurp(t, s.Path()), all) {
		t.Error(s.Path())
	}
	if _, err := syscall.Write(s.Fd(), []byte("x")); err == nil {
		t.Error("the descriptor took a write")
	}
	if f, err := os.OpenFile(s.Path(), os.O_RDWR, 0); err == nil {
		// Some may open it so, root among them; the seals do not ask who it is.
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, syscall.EPERM) {
			t.Errorf("a write: %v", err)
		}
		if err := f.Truncate(0); !errors.Is(err, syscall.EPERM) {
			t.Errorf("truncation: %v", err)
		}
		if _, err := syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_WRITE, syscall.MAP_SHARED); !errors.Is(err, syscall.EPERM) {
			t.Errorf("a writable map: %v", err)
		}
		f.Close()
	}
	twice, err := r.OpenSealed(ctx, "tiny", "")
	must(t, err)
	var here, there syscall.Stat_t
	if errors.Join(syscall.Fstat(s.Fd(), &here), syscall.Fstat(twice.Fd(), &there)) != nil || here.Ino != there.Ino {
		t.Error("one content is two memories")
	}
	must(t, s.Close())
	_, err = s.Bytes()
	want(t, err, securereg.ErrClosed)
	if memory, err := twice.Bytes(); err != nil || !bytes.Equal(memory, all) {
		t.Errorf("%d bytes, %v", len(memory), err)
	}
	must(t, twice.Close())
	want(t, twice.Close(), securereg.ErrClosed)
}

func TestEventsTellWhatChangedAndWhatIsHeld(t *testing.T) {
	r, root := fresh(t)
	events, err := r.Events()
	must(t, err)
	if e, found, err := events.Poll(); found || err != nil {
		t.Errorf("%+v, %v", e, err)
	}
	// Another handle of the same root is another process's view.
	other, err := securereg.Open(root, securereg.Options{Write: true})
	must(t, err)
	defer other.Close()
	next := func(kind securereg.EventKind, sealed int) {
		t.Helper()
		patient, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		e, err := events.Next(patient)
		if err != nil || e.Kind != kind || e.Model != "tiny" || e.Sealed != sealed {
			t.Fatalf("%+v, %v; want kind %d", e, err, kind)
		}
	}
	go func() {
		_, err := other.Promote(ctx, data(t, "tiny-llama.gguf"), "tiny", securereg.PromoteOptions{})
		if err != nil {
			t.Error(err)
		}
	}()
	next(securereg.EventPromoted, 0)
	s, err := r.OpenSealed(ctx, "tiny", "")
	must(t, err)
	go func() {
		if err := other.Quarantine("tiny", "a look", ""); err != nil {
			t.Error(err)
		}
	}()
	next(securereg.EventQuarantined, 1)
	must(t, s.Close())
	must(t, other.Release(ctx, "tiny", "fine"))
	next(securereg.EventReleased, 0)
	must(t, other.Delete("tiny"))
	next(securereg.EventDeleted, 0)

	// A context that ends, and one that had ended, end the wait; the next wait is as good as the first.
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	for range 2 {
		_, err = events.Next(short)
		want(t, err, securereg.ErrCancelled)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}
	promote(t, other, "tiny-llama.gguf", "tiny")
	next(securereg.EventPromoted, 0)

	// Closing wakes who waits.
	ended := make(chan error)
	for range 4 {
		go func() {
			var last error
			for _, err := range events.All(ctx) {
				last = err
			}
			ended <- last
		}()
	}
	time.Sleep(10 * time.Millisecond) // likely waiting by then; right either way
	must(t, events.Close())
	for range 4 {
		if err := <-ended; !errors.Is(err, fs.ErrClosed) {
			t.Errorf("a wait ended with %v", err)
		}
	}
	want(t, events.Close(), securereg.ErrClosed)
}

func TestManyWaitersEachGetTheirEvents(t *testing.T) {
	r, _ := fresh(t)
	events, err := r.Events()
	must(t, err)
	defer events.Close()
	const rounds = 20
	seen := make(chan string, 4*rounds)
	waiting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for range 4 {
		all.Add(1)
		go func() {
			defer all.Done()
			for e, err := range events.All(waiting) {
				if err != nil {
					return
				}
				seen <- e.Model
			}
		}()
	}
	file := data(t, "gguf/d-single.gguf")
	for i := range rounds {
		name := fmt.Sprintf("m%d", i)
		_, err := r.Promote(ctx, file, name, securereg.PromoteOptions{Filename: name + ".gguf"})
		must(t, err)
	}
	got := map[string]int{}
	for range rounds {
		select {
		case name := <-seen:
			got[name]++
		case <-waiting.Done():
			t.Fatalf("%d of %d events came", len(got), rounds)
		}
	}
	cancel()
	all.Wait()
	if len(got) != rounds || len(seen) != 0 {
		t.Errorf("%v, and %d more", got, len(seen))
	}
}

func TestAHeaderSaysWhatIsInTheFile(t *testing.T) {
	r, _, all := tiny(t)
	g, err := r.ReadGGUF("tiny", "")
	must(t, err)
	if g.Version != 3 || g.Alignment != 32 || g.DataOffset%32 != 0 || len(g.Pairs) == 0 || len(g.Tensors) != 21 {
		t.Errorf("%+v", g)
	}
	for key, expected := range map[string]any{
		"general.architecture": "llama", "llama.block_count": uint64(2), "tokenizer.ggml.add_bos_token": true,
		"llama.attention.layer_norm_rms_epsilon": float64(float32(1e-5)),
	} {
		if got, ok := g.Get(key); !ok || got != expected {
			t.Errorf("%s is %v, %v", key, got, ok)
		}
	}
	if tokens, _ := g.Get("tokenizer.ggml.tokens"); len(tokens.([]string)) != 338 || tokens.([]string)[1] != "<s>" {
		t.Errorf("%v", tokens)
	}
	if types, _ := g.Get("tokenizer.ggml.token_type"); len(types.([]int32)) != 338 || types.([]int32)[0] != 2 {
		t.Errorf("%v", types)
	}
	if scores, _ := g.Get("tokenizer.ggml.scores"); len(scores.([]float32)) != 338 {
		t.Errorf("%v", scores)
	}
	if _, ok := g.Get("no.such.key"); ok {
		t.Error("a key that is not there was found")
	}
	f, err := r.OpenFile("tiny", "")
	must(t, err)
	defer f.Close()
	for _, tensor := range g.Tensors {
		p := make([]byte, tensor.SizeBytes)
		if _, err := f.ReadAt(p, int64(tensor.Offset)); err != nil || !bytes.Equal(p, all[tensor.Offset:][:tensor.SizeBytes]) {
			t.Errorf("%+v: %v", tensor, err)
		}
		if tensor.Name == "" || tensor.Type == "" || len(tensor.Dimensions) == 0 || tensor.Offset < g.DataOffset {
			t.Errorf("%+v", tensor)
		}
	}
	promote(t, r, "hostile/s00_ok.safetensors", "tensors")
	_, err = r.ReadGGUF("tensors", "")
	want(t, err, securereg.ErrRefused)

	split := promote(t, r, "split/tiny-00001-of-00002.gguf", "split").Model
	_, err = r.ReadGGUF("split", "")
	want(t, err, securereg.ErrInvalidInput)
	tensors := 0
	for _, file := range split.Files {
		g, err := r.ReadGGUF("split", file.Path)
		must(t, err)
		tensors += len(g.Tensors)
	}
	if tensors != 21 {
		t.Errorf("%d tensors in the shards", tensors)
	}
}

func Test64GoroutinesShareARegistryAndAFile(t *testing.T) {
	r, _, all := tiny(t)
	shared, err := r.OpenFile("tiny", "")
	must(t, err)
	defer shared.Close()
	files, err := r.FS("tiny")
	must(t, err)
	var group sync.WaitGroup
	for number := range 64 {
		group.Add(1)
		go func() {
			defer group.Done()
			own, err := r.OpenFile("tiny", "")
			if err != nil {
				t.Error(err)
				return
			}
			defer own.Close()
			p := make([]byte, 1000)
			for round := range 20 {
				at := (number*8191 + round*65537) % len(all)
				for _, f := range []*securereg.File{own, shared} {
					n, err := f.ReadAt(p, int64(at))
					if (err != nil && err != io.EOF) || !bytes.Equal(p[:n], all[at:min(at+1000, len(all))]) {
						t.Errorf("ReadAt(%d) = %d, %v", at, n, err)
					}
				}
			}
			if number%8 == 0 {
				s, err := r.OpenSealed(ctx, "tiny", "")
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				if memory, err := s.Bytes(); err != nil || !bytes.Equal(memory, all) {
					t.Errorf("sealed memory: %d bytes, %v", len(memory), err)
				}
				if got, err := fs.ReadFile(files, "tiny-llama.gguf"); err != nil || !bytes.Equal(got, all) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			}
			if m, err := r.Lookup("tiny"); err != nil || m.Quarantine != nil {
				t.Errorf("%+v, %v", m, err)
			}
		}()
	}
	group.Wait()
}

func TestCloseEndsWhatOthersAreDoingWithoutHarm(t *testing.T) {
	r, _, all := tiny(t)
	for range 20 {
		f, err := r.OpenFile("tiny", "")
		must(t, err)
		var group sync.WaitGroup
		for range 8 {
			group.Add(1)
			go func() {
				defer group.Done()
				p := make([]byte, 100)
				for {
					if _, err := f.ReadAt(p, 1000); errors.Is(err, os.ErrClosed) {
						return
					} else if err != nil || !bytes.Equal(p, all[1000:1100]) {
						t.Errorf("%v", err)
						return
					}
				}
			}()
		}
		must(t, f.Close())
		group.Wait()
	}
}

func TestWhatWasForgottenIsClosedInTheEnd(t *testing.T) {
	r, _, _ := tiny(t)
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	before := descriptors()
	for range 50 {
		if _, err := r.Events(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.OpenFile("tiny", ""); err != nil {
			t.Fatal(err)
		}
		if _, err := r.OpenSealed(ctx, "tiny", ""); err != nil {
			t.Fatal(err)
		}
	}
	if descriptors() < before+50 {
		t.Fatalf("%d descriptors after %d", descriptors(), before)
	}
	for range 500 {
		runtime.GC()
		if descriptors() <= before+5 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d descriptors, at first %d", descriptors(), before)
}

func ExampleRegistry_FS() {
	r, err := securereg.Open("/no/such/registry", securereg.Options{})
	if err != nil {
		fmt.Println(errors.Is(err, fs.ErrNotExist))
		return
	}
	defer r.Close()
	files, err := r.FS("tiny")
	if err != nil {
		fmt.Println(err)
		return
	}
	config, err := fs.ReadFile(files, "config.json")
	fmt.Println(len(config), err)
	// Output: true
}
