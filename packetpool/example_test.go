package packetpool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/duotap/duotap/packetpool"
)

// A packet's life: allocate, append, read, release. The pool's counters say
// afterwards that nothing was lost.
func Example() {
	pool, err := packetpool.New(packetpool.Config{Name: "mail", Packets: 4, Payload: 1514})
	if err != nil {
		log.Fatal(err)
	}
	pkt, err := pool.Allocate(context.Background(), packetpool.HeadroomTCP4)
	if err != nil {
		log.Fatal(err)
	}
	if err := pkt.Append([]byte("MAIL FROM:<device@example.org>")); err != nil {
		log.Fatal(err)
	}
	fmt.Println(pkt.Len(), "bytes,", pkt.Room(), "more fit")

	io.Copy(os.Stdout, pkt)
	fmt.Println()
	pkt.Release()

	s := pool.Stats()
	fmt.Println(s.Free, "of", s.Total, "free, never fewer than", s.LowestFree)
	// Output:
	// 30 bytes, 1390 more fit
	// MAIL FROM:<device@example.org>
	// 4 of 4 free, never fewer than 3
}

// Append takes further packets as it needs them. Each keeps the headroom, so each is
// one full segment on the wire.
func ExamplePacket_Append() {
	pool, err := packetpool.New(packetpool.Config{Packets: 4, Payload: 1514})
	if err != nil {
		log.Fatal(err)
	}
	pkt, err := pool.Allocate(context.Background(), packetpool.HeadroomTCP6)
	if err != nil {
		log.Fatal(err)
	}
	defer pkt.Release()

	if err := pkt.Append(make([]byte, 3000)); err != nil {
		log.Fatal(err)
	}
	for s := range pkt.Segments() {
		fmt.Println(len(s), "bytes")
	}

	err = pkt.Append(make([]byte, 3000)) // needs two packets, one is free
	fmt.Println(errors.Is(err, packetpool.ErrNoPacket), "and still", pkt.Len(), "bytes")
	// Output:
	// 1400 bytes
	// 1400 bytes
	// 200 bytes
	// true and still 3000 bytes
}

// Data of any length goes through a pool of any size: fill as far as packets are
// free, send, release, and only then allocate (and so perhaps wait) again.
func ExamplePacket_Fill() {
	pool, err := packetpool.New(packetpool.Config{Packets: 3, Payload: 100})
	if err != nil {
		log.Fatal(err)
	}
	var sent bytes.Buffer // stands for a connection
	data := []byte(strings.Repeat("a long message, ", 40))
	for len(data) > 0 {
		pkt, err := pool.Allocate(context.Background(), 20)
		if err != nil {
			log.Fatal(err)
		}
		n := pkt.Fill(data)
		data = data[n:]
		fmt.Println("send", n, "bytes in", pkt.Packets(), "packets")
		io.Copy(&sent, pkt)
		pkt.Release()
	}
	fmt.Println(sent.Len(), "bytes sent")
	// Output:
	// send 240 bytes in 3 packets
	// send 240 bytes in 3 packets
	// send 160 bytes in 2 packets
	// 640 bytes sent
}

// Headers go into the headroom, the innermost first; the data stays where it is.
func ExamplePacket_Prepend() {
	pool, err := packetpool.New(packetpool.Config{Packets: 1, Payload: 64})
	if err != nil {
		log.Fatal(err)
	}
	pkt, err := pool.Allocate(context.Background(), 12)
	if err != nil {
		log.Fatal(err)
	}
	defer pkt.Release()
	pkt.Append([]byte("data"))
	for _, header := range []string{"[tcp]", "[ip]"} {
		if err := pkt.Prepend([]byte(header)); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("headroom left:", pkt.Headroom())
	io.Copy(os.Stdout, pkt)
	// Output:
	// headroom left: 3
	// [ip][tcp]data
}

// A pool with no free packet makes the caller wait, for as long as its context
// allows.
func ExamplePool_Allocate() {
	pool, err := packetpool.New(packetpool.Config{Name: "mail", Packets: 1, Payload: 64})
	if err != nil {
		log.Fatal(err)
	}
	held, err := pool.Allocate(context.Background(), 0)
	if err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	_, err = pool.Allocate(ctx, 0)
	fmt.Println(errors.Is(err, packetpool.ErrNoPacket), errors.Is(err, context.DeadlineExceeded))

	time.AfterFunc(time.Millisecond, held.Release)
	pkt, err := pool.Allocate(context.Background(), 0)
	if err != nil {
		log.Fatal(err)
	}
	pkt.Release()
	s := pool.Stats()
	fmt.Println(s.EmptyRequests, "requests found no packet,", s.EmptySuspensions, "waited")
	// Output:
	// true true
	// 2 requests found no packet, 2 waited
}
