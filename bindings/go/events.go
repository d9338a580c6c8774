package securereg

// #include "shim.h"
import "C"

import (
	"context"
	"errors"
	"iter"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// EventKind is what happened to a model. A number you do not know is a change of some other sort.
type EventKind uint32

const (
	EventPromoted    EventKind = C.SECUREREG_EVENT_PROMOTED    // a new model
	EventReplaced    EventKind = C.SECUREREG_EVENT_REPLACED    // the name stands for other content now
	EventQuarantined EventKind = C.SECUREREG_EVENT_QUARANTINED // not served any more; Event.Sealed says how much is held
	EventReleased    EventKind = C.SECUREREG_EVENT_RELEASED    // served again
	EventDeleted     EventKind = C.SECUREREG_EVENT_DELETED     // gone
)

// Event is one change of one model.
type Event struct {
	Kind       EventKind
	Model      string
	Generation uint64 // of the catalog that shows it
	Sealed     int    // how many of the model's files this process holds in sealed memory
}

// Events is a subscription to what changes in a registry, by whatever process. Each event is given to one caller.
type Events struct {
	h       C.securereg_events
	cleanup runtime.Cleanup

	// Readable when the library's descriptor is, and ours: an epoll of that one, for the poller of Go's runtime, which wants
	// descriptors that do not block and sets deadlines on them.
	wake *os.File
	// One waits at a time: the deadline is the descriptor's.
	turn chan struct{}
}

// Events subscribes to what changes from now on.
func (r *Registry) Events() (*Events, error) {
	defer runtime.KeepAlive(r)
	var h C.securereg_events
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_events_open(r.h, &h, e) })
	if err != nil {
		return nil, err
	}
	var fd C.int
	err = call(func(e *C.securereg_error) C.securereg_status { return C.securereg_events_fd(h, &fd, e) })
	if err != nil {
		C.securereg_events_close(h)
		return nil, err
	}
	wake, err := epollOf(int(fd))
	if err != nil {
		C.securereg_events_close(h)
		return nil, err
	}
	s := &Events{h: h, wake: wake, turn: make(chan struct{}, 1)}
	s.cleanup = runtime.AddCleanup(s, func(h C.securereg_events) { C.securereg_events_close(h) }, h)
	return s, nil
}

func epollOf(fd int) (*os.File, error) {
	own, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	wanted := syscall.EpollEvent{Events: syscall.EPOLLIN}
	if err := syscall.EpollCtl(own, syscall.EPOLL_CTL_ADD, fd, &wanted); err != nil {
		syscall.Close(own)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	if err := syscall.SetNonblock(own, true); err != nil {
		syscall.Close(own)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(own), "securereg events"), nil
}

// Poll gives the next event; false when nothing else has happened. It does not wait. [ErrManifest] while the registry's
// records do not hold.
func (s *Events) Poll() (Event, bool, error) {
	defer runtime.KeepAlive(s)
	var told C.securereg_event
	told.size = C.size_t(unsafe.Sizeof(told))
	err := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_events_next(s.h, &told, e) })
	if err != nil || told.kind == C.SECUREREG_EVENT_NONE {
		return Event{}, false, err
	}
	return Event{
		Kind:       EventKind(told.kind),
		Model:      C.GoString(&told.name[0]),
		Generation: uint64(told.generation),
		Sealed:     int(told.sealed),
	}, true, nil
}

// Next waits for the next event, until ctx ends or the subscription is closed ([ErrClosed]).
func (s *Events) Next(ctx context.Context) (Event, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return Event{}, &Error{Status: ErrCancelled, Message: "no event came", causes: causes(ctx)}
	}
	if err := s.wake.SetReadDeadline(time.Time{}); err != nil {
		return Event{}, s.waitError(ctx, err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		s.wake.SetReadDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-woken // or its deadline would end the next wait
		}
	}()
	conn, err := s.wake.SyscallConn()
	if err != nil {
		return Event{}, s.waitError(ctx, err)
	}
	var event Event
	var pollErr error
	// The poller tells of what comes after a Poll that found nothing, and Poll comes before each wait.
	err = conn.Read(func(uintptr) bool {
		var found bool
		event, found, pollErr = s.Poll()
		return found || pollErr != nil
	})
	if err != nil {
		return Event{}, s.waitError(ctx, err)
	}
	return event, pollErr
}

// waitError says why waiting ended.
func (s *Events) waitError(ctx context.Context, err error) error {
	defer runtime.KeepAlive(s)
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return &Error{Status: ErrCancelled, Message: "no event came", causes: causes(ctx)}
	}
	// The descriptor's own word for having been closed has no name outside the standard library; the library's has.
	var fd C.int
	closed := call(func(e *C.securereg_error) C.securereg_status { return C.securereg_events_fd(s.h, &fd, e) })
	if closed != nil {
		return closed
	}
	return err
}

// All gives events until ctx ends, the subscription is closed or something fails; the last pair then has the error.
func (s *Events) All(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			event, err := s.Next(ctx)
			if !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// Close ends the subscription, and wakes who waits for it. A second Close is [ErrClosed].
func (s *Events) Close() error {
	s.cleanup.Stop()
	err := ended(C.securereg_events_close(s.h))
	s.wake.Close()
	return err
}
