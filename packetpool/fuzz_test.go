package packetpool_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/duotap/duotap/packetpool"
)

// FuzzChain runs a script of calls on packets and on a model of them, and compares
// after each. A call is a letter and a decimal number; other characters separate:
//
//	n  TryAllocate: the number chooses pool and headroom
//	s  go on with another packet
//	a  Append   f  Fill   e  Extend and write   p  Prepend   (number: bytes)
//	r  Read (bytes)   t  ReadAt (offset)   w  Rewind   c  Truncate (length)
//	k  Clone to the pool of that number, and go on with the copy
//	x  Release
//
// The seeds in testdata/fuzz/FuzzChain are named after what they once were about.
func FuzzChain(f *testing.F) {
	f.Add("n0 a5 r3 x")
	f.Fuzz(func(t *testing.T, script string) {
		w := newWorld(t)
		for n := 0; script != "" && n < 300; n++ {
			var op byte
			var arg int
			op, arg, script = nextCall(script)
			w.do(op, arg)
		}
		for w.current() != nil {
			w.release()
		}
		for _, p := range w.pools {
			checkAllFree(t, p.Pool)
			if n := p.Stats().InvalidReleases; n != 0 {
				t.Errorf("pool %q: %d invalid releases", p.Name(), n)
			}
		}
	})
}

// nextCall takes the first call off script. Numbers are capped.
func nextCall(script string) (op byte, arg int, rest string) {
	op, script = script[0], script[1:]
	for script != "" && '0' <= script[0] && script[0] <= '9' {
		arg = min(arg*10+int(script[0]-'0'), 5000)
		script = script[1:]
	}
	return op, arg, script
}

// world is pools of different shapes, and the packets taken from them.
type world struct {
	t       *testing.T
	pools   []*modelPool
	packets []*modelPacket
	at      int // the current one
	stamp   byte
}

type modelPool struct {
	*packetpool.Pool
	watermark int
}

// toHave is how many packets a growing chain can get.
func (p *modelPool) toHave() int { return max(p.Stats().Free-p.watermark, 0) }

// modelPacket is a packet and what must be true of it.
type modelPacket struct {
	*packetpool.Packet
	pool     *modelPool
	data     []byte
	read     int // of data
	headroom int // as allocated
	front    int // now
	packets  int
}

func newWorld(t *testing.T) *world {
	w := &world{t: t}
	for _, c := range []packetpool.Config{
		{Name: "one byte", Packets: 6, Payload: 1},
		{Name: "three bytes", Packets: 20, Payload: 3, LowWatermark: 2},
		{Name: "tens", Packets: 8, Payload: 16},
		{Name: "single", Packets: 1, Payload: 100},
		{Name: "frames", Packets: 5, Payload: 1514, LowWatermark: 1},
	} {
		p, err := packetpool.New(c)
		if err != nil {
			t.Fatal(err)
		}
		w.pools = append(w.pools, &modelPool{p, c.LowWatermark})
	}
	return w
}

// bytes is n bytes that differ from call to call.
func (w *world) bytes(n int) []byte {
	b := pattern(n)
	w.stamp += 31
	for i := range b {
		b[i] += w.stamp
	}
	return b
}

func (w *world) current() *modelPacket {
	if len(w.packets) == 0 {
		return nil
	}
	return w.packets[w.at%len(w.packets)]
}

func (w *world) do(op byte, arg int) {
	if op == 'n' {
		w.allocate(w.pools[arg%len(w.pools)], arg/len(w.pools))
		return
	}
	k := w.current()
	if k == nil {
		return
	}
	switch op {
	case 's':
		w.at = arg
	case 'a':
		w.append(k, w.bytes(arg))
	case 'f':
		w.fill(k, w.bytes(arg))
	case 'e':
		w.extend(k, w.bytes(arg))
	case 'p':
		w.prepend(k, w.bytes(arg))
	case 'r':
		w.read(k, arg)
	case 't':
		w.readAt(k, arg)
	case 'w':
		k.Rewind()
		k.read = 0
	case 'c':
		w.truncate(k, arg)
	case 'k':
		w.clone(k, w.pools[arg%len(w.pools)])
	case 'x':
		w.release()
	}
	for _, k := range w.packets { // one packet's calls must not reach another's bytes
		w.check(k)
	}
}

// fits says whether n bytes more can be appended, and if so what number of packets
// the chain then has.
func (k *modelPacket) fits(n int) (packets int, err error) {
	room, dataPart := k.room(), k.pool.Payload()-k.headroom
	if n <= room {
		return k.packets, nil
	}
	if dataPart == 0 {
		return 0, packetpool.ErrHeadroom
	}
	need := (n - room + dataPart - 1) / dataPart
	if need > k.pool.toHave() {
		return 0, packetpool.ErrNoPacket
	}
	return k.packets + need, nil
}

// room is what the chain's packets have room for behind the data.
func (k *modelPacket) room() int {
	return k.pool.Payload() - k.front + (k.packets-1)*(k.pool.Payload()-k.headroom) - len(k.data)
}

func (w *world) allocate(p *modelPool, headroom int) {
	free := p.Stats().Free
	k, err := p.TryAllocate(headroom)
	var want error
	switch {
	case headroom > p.Payload():
		want = packetpool.ErrHeadroom
	case free == 0:
		want = packetpool.ErrNoPacket
	}
	w.checkErr("TryAllocate", err, want)
	if err == nil {
		w.add(&modelPacket{Packet: k, pool: p, headroom: headroom, front: headroom, packets: 1})
	}
}

func (w *world) add(k *modelPacket) {
	w.packets = append(w.packets, k)
	w.at = len(w.packets) - 1
	w.check(k)
}

func (w *world) append(k *modelPacket, b []byte) {
	packets, want := k.fits(len(b))
	err := k.Append(b)
	w.checkErr("Append", err, want)
	if err == nil {
		k.data, k.packets = append(k.data, b...), packets
	}
}

func (w *world) fill(k *modelPacket, b []byte) {
	want := len(b)
	packets, err := k.fits(want)
	for err != nil { // the most that fits
		want--
		packets, err = k.fits(want)
	}
	if n := k.Fill(b); n != want {
		w.t.Fatalf("Fill of %d bytes took %d, want %d", len(b), n, want)
	}
	k.data, k.packets = append(k.data, b[:want]...), packets
}

func (w *world) extend(k *modelPacket, b []byte) {
	packets, want := k.fits(len(b))
	err := k.Extend(len(b))
	w.checkErr("Extend", err, want)
	if err != nil {
		return
	}
	skip := len(k.data) - k.read
	k.data, k.packets = append(k.data, b...), packets
	for s := range k.Segments() {
		n := min(skip, len(s))
		skip -= n
		b = b[copy(s[n:], b):]
	}
}

func (w *world) prepend(k *modelPacket, b []byte) {
	var want error
	if k.read > 0 || len(b) > k.front {
		want = packetpool.ErrHeadroom
	}
	err := k.Prepend(b)
	w.checkErr("Prepend", err, want)
	if err == nil {
		k.data, k.front = append(bytes.Clone(b), k.data...), k.front-len(b)
	}
}

func (w *world) read(k *modelPacket, n int) {
	b := make([]byte, n)
	got, err := k.Read(b)
	wantN := min(n, len(k.data)-k.read)
	var want error
	if n > 0 && wantN == 0 {
		want = io.EOF
	}
	w.checkErr("Read", err, want)
	if got != wantN || !bytes.Equal(b[:got], k.data[k.read:][:wantN]) {
		w.t.Fatalf("Read %q, want %q", b[:got], k.data[k.read:][:wantN])
	}
	k.read += got
}

func (w *world) readAt(k *modelPacket, off int) {
	b := make([]byte, 1+off%40)
	n, err := k.ReadAt(b, int64(off))
	if off > len(k.data) {
		w.checkErr("ReadAt", err, packetpool.ErrOffset)
		return
	}
	wantN, want := bytes.NewReader(k.data).ReadAt(b, int64(off))
	w.checkErr("ReadAt", err, want)
	if n != wantN || !bytes.Equal(b[:n], k.data[off:][:n]) {
		w.t.Fatalf("ReadAt(%d bytes, %d) = %q, want %d bytes", len(b), off, b[:n], wantN)
	}
}

func (w *world) truncate(k *modelPacket, n int) {
	var want error
	if n > len(k.data) {
		want = packetpool.ErrOffset
	}
	err := k.Truncate(n)
	w.checkErr("Truncate", err, want)
	if err == nil {
		k.data, k.read = k.data[:n:n], min(k.read, n)
	}
}

func (w *world) clone(k *modelPacket, to *modelPool) {
	done, cancel := context.WithCancel(w.t.Context())
	cancel() // nobody would release a packet for it
	c := &modelPacket{pool: to, data: bytes.Clone(k.data), read: k.read, headroom: k.headroom, front: k.front, packets: 1}
	free := to.Stats().Free
	var want error
	switch {
	case k.headroom > to.Payload():
		want = packetpool.ErrHeadroom
	case free == 0:
		want = packetpool.ErrNoPacket
	}
	copied, err := k.Clone(done, to.Pool)
	if want == nil {
		c.packets, want = c.packetsFor(free)
	}
	w.checkErr("Clone", err, want)
	if err == nil {
		c.Packet = copied
		w.add(c)
	} else if n := to.Stats().Free; n != free {
		w.t.Fatalf("failed Clone: %d packets free, %d before", n, free)
	}
}

// packetsFor says how many packets a fresh chain with k's data has, if the pool has
// free packets before the first is taken.
func (k *modelPacket) packetsFor(free int) (int, error) {
	more := len(k.data) - (k.pool.Payload() - k.front)
	if more <= 0 {
		return 1, nil
	}
	dataPart := k.pool.Payload() - k.headroom
	if dataPart == 0 {
		return 0, packetpool.ErrHeadroom
	}
	need := (more + dataPart - 1) / dataPart
	if need > free-1-k.pool.watermark {
		return 0, packetpool.ErrNoPacket
	}
	return 1 + need, nil
}

func (w *world) release() {
	k := w.current()
	before := k.pool.Stats().Free
	k.Release()
	if n := k.pool.Stats().Free; n != before+k.packets {
		w.t.Fatalf("Release of %d packets: %d free, %d before", k.packets, n, before)
	}
	i := w.at % len(w.packets)
	w.packets = append(w.packets[:i], w.packets[i+1:]...)
}

func (w *world) checkErr(call string, err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Fatalf("%s: error %v, want %v", call, err, want)
	}
}

func (w *world) check(k *modelPacket) {
	w.t.Helper()
	all := make([]byte, len(k.data)+1)
	n, err := k.ReadAt(all, 0)
	if err != io.EOF || !bytes.Equal(all[:n], k.data) {
		w.t.Fatalf("chain holds %q (%v), want %q", all[:n], err, k.data)
	}
	unread, packets := k.data[k.read:], 0
	for s := range k.Segments() {
		packets++
		if len(s) == 0 || len(s) > len(unread) || !bytes.Equal(s, unread[:len(s)]) {
			w.t.Fatalf("segment %q, want the begin of %q", s, unread)
		}
		unread = unread[len(s):]
	}
	if len(unread) > 0 || packets > k.packets {
		w.t.Fatalf("segments end %d bytes early, %d of them", len(unread), packets)
	}
	if k.Len() != len(k.data)-k.read || k.Headroom() != k.front || k.Packets() != k.packets {
		w.t.Fatalf("len %d, headroom %d, packets %d, want %d, %d, %d",
			k.Len(), k.Headroom(), k.Packets(), len(k.data)-k.read, k.front, k.packets)
	}
	w.checkRoom(k)
}

func (w *world) checkRoom(k *modelPacket) {
	w.t.Helper()
	want := k.pool.Payload() - k.front - len(k.data) // all data in the head
	if dataPart := k.pool.Payload() - k.headroom; want < 0 {
		want = (dataPart - -want%dataPart) % dataPart
	}
	if k.Room() != want {
		w.t.Fatalf("room %d, want %d", k.Room(), want)
	}
}
