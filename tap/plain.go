//go:build linux

package tap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"

	"github.com/duotap/duotap/stack/link"
)

// openWater opens a TAP for plain frames. Package water opens it; we first attach and
// detach, for three reasons. water.New leaves its descriptor open if it fails, so it has to be
// called where it won't. It makes a persistent interface vanish unless it is told
// that the interface is persistent. And an interface that needs multiqueue to be
// said is found out by trying.
func openWater(name string) (*queue, error) {
	probe, err := attach(name, 0)
	if err != nil {
		return nil, err
	}
	probe.close()
	cfg := water.Config{DeviceType: water.TAP}
	cfg.Name = name
	cfg.Persist = probe.persistent()
	cfg.MultiQueue = probe.flags&unix.IFF_MULTI_QUEUE != 0
	ifce, err := water.New(cfg)
	if err != nil {
		return nil, explainSetIff(name, err)
	}
	return takeOver(ifce)
}

// takeOver makes a queue of what water has opened: of a duplicate descriptor, for
// water's is inherited by child processes.
func takeOver(ifce *water.Interface) (*queue, error) {
	defer ifce.Close()
	file, ok := ifce.ReadWriteCloser.(*os.File)
	if !ok {
		return nil, fmt.Errorf("package water has no file in its interface but %T", ifce.ReadWriteCloser)
	}
	fd, err := duplicate(file)
	if err != nil {
		return nil, err
	}
	q := &queue{fd: fd}
	if err := q.adopt(); err != nil {
		q.close()
		return nil, err
	}
	return q, nil
}

// duplicate duplicates the descriptor of a file.
func duplicate(file *os.File) (fd int, err error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var dupErr error
	err = raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, errors.Join(err, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", dupErr))
}

// plainIO is one frame, one system call.
type plainIO struct {
	rw      io.ReadWriter
	mtu     int
	buffers sync.Pool // *[]byte, for frames that are sent in several pieces
}

func newPlainIO(rw io.ReadWriter, mtu int) *plainIO {
	p := &plainIO{rw: rw, mtu: mtu}
	p.buffers.New = func() any {
		b := make([]byte, mtu+link.EthernetHeaderLen)
		return &b
	}
	return p
}

func (p *plainIO) receive(d *Device, _ link.Ring, deliver func([]link.Frame)) error {
	longest := p.mtu + link.EthernetHeaderLen
	buf := make([]byte, longest+1) // one more, to notice a longer frame
	data := make([][]byte, 1)
	frames := make([]link.Frame, 1)
	for {
		n, err := p.rw.Read(buf)
		if err != nil {
			return err
		}
		data[0] = buf[:n]
		frames[0] = link.Frame{Data: data}
		if frames[0].Check(p.mtu, 0) != nil {
			d.dropped.Add(1)
			continue
		}
		d.received.Add(1)
		deliver(frames)
	}
}

func (p *plainIO) send(frames []link.Frame) (n int, err error) {
	for n < len(frames) {
		if err := p.sendOne(&frames[n]); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (p *plainIO) sendOne(f *link.Frame) error {
	if len(f.Data) == 1 {
		_, err := p.rw.Write(f.Data[0])
		return err
	}
	buf := p.buffers.Get().(*[]byte)
	defer p.buffers.Put(buf)
	_, err := p.rw.Write((*buf)[:f.CopyAt(*buf, 0)])
	return err
}
