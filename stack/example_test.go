package stack_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/netip"
	"time"

	"github.com/duotap/duotap/packetpool"
	"github.com/duotap/duotap/stack"
	"github.com/duotap/duotap/stack/link"
	"github.com/duotap/duotap/stack/link/memlink"
)

// Two instances on a cable in memory: one listens, the other connects and asks.
func Example() {
	left, right := memlink.Pair(1500)
	server := newHostAt(right, "192.0.2.25/24")
	defer server.Close()
	client := newHostAt(left, "192.0.2.1/24")
	defer client.Close()

	listener, err := server.Listen("tcp", "192.0.2.25:13")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintln(conn, "a quarter past ten")
	}()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := client.DialContext(ctx, "tcp", "192.0.2.25:13")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%v says: %s", conn.RemoteAddr(), answer)
	// Output: 192.0.2.25:13 says: a quarter past ten
}

// newHostAt starts an instance with TCP on a device. The pool is for frames to receive;
// a device in memory needs none.
func newHostAt(dev link.Device, address string) *stack.Instance {
	pool, err := packetpool.New(packetpool.Config{Packets: 100, Payload: 1514})
	if err != nil {
		log.Fatal(err)
	}
	ip, err := stack.New(stack.Config{
		Link:      dev,
		Pool:      pool,
		Addresses: []netip.Prefix{netip.MustParsePrefix(address)},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := ip.EnableTCP(); err != nil {
		log.Fatal(err)
	}
	if err := ip.Start(context.Background()); err != nil {
		log.Fatal(err)
	}
	return ip
}

// Ping tells how far away a host is, if it answers.
func ExampleInstance_Ping() {
	left, right := memlink.Pair(1500)
	var hosts []*stack.Instance
	for k, dev := range []link.Device{left, right} {
		pool, err := packetpool.New(packetpool.Config{Packets: 100, Payload: 1514})
		if err != nil {
			log.Fatal(err)
		}
		address := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(k + 1)}), 24)
		host, err := stack.New(stack.Config{Link: dev, Pool: pool, Addresses: []netip.Prefix{address}})
		if err != nil {
			log.Fatal(err)
		}
		defer host.Close()
		if err := host.EnableICMP(); err != nil {
			log.Fatal(err)
		}
		if err := host.Start(context.Background()); err != nil {
			log.Fatal(err)
		}
		hosts = append(hosts, host)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	reply, err := hosts[0].Ping(ctx, netip.MustParseAddr("192.0.2.2"), 56)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d bytes from %v\n", reply.Size, reply.From)
	// Output: 56 bytes from 192.0.2.2
}
