// Package stack runs one IP instance: IPv4, IPv6, TCP, UDP and ICMP over Ethernet
// links, with its frames received into packets of one pool. The protocols are those of
// gVisor's tcpip, which no other package of this module imports and which none of the
// names here show.
//
// # An instance's life
//
//	ip, err := stack.New(stack.Config{Link: dev, Pool: pool, Addresses: prefixes})
//	err = ip.EnableTCP()           // services are off until enabled
//	err = ip.Start(ctx)            // now it is on the wire
//	conn, err := ip.DialContext(ctx, "tcp", "192.0.2.25:25")
//	err = ip.Close()               // and all of it is gone
//
// Nothing is ambient: the caller makes the pool and the link and hands them over, and an
// instance knows no address, gateway or name server that it wasn't given. Enable and
// AttachLink come before Start; a second link makes a host with two, and EnableForwarding
// a router.
//
// # Addresses
//
// An IPv6 address is used only after a second of duplicate address detection (RFC 4862
// §5.4). Start doesn't wait for it, and neither does anything over IPv4: a Dial or Listen
// waits for the one address that it needs, and Ready for all. An IPv4 address is used at
// once, announced, and probed at the same time (RFC 5227). An address that another host
// has is in Conflicts, in the log, and for IPv6 in the error of what needs it.
//
// # Connections
//
// DialContext, Listen and ListenPacket have the signatures of package net, and what they
// return behaves as the kernel's connections do, error for error: a test runs the same
// code on both and compares. What is missing is a file descriptor, so there is no
// SyscallConn.
//
// # Memory
//
// Going down, bytes are copied twice: from the caller's buffer or packet into the TCP
// send buffer, from where gVisor's segments refer to them, and from there into the
// device. Going up, they are copied from the ring or the sender's memory into gVisor's,
// and from there into the caller's buffer. A packet that was sent is free again when
// SendPacket returns; it doesn't wait for the acknowledgement.
//
// The pool bounds the receive ring, which is taken at Start and given back by Close, and
// nothing else: TCP's buffers are bounded by TCPConfig for each connection, UDP's by 1 MiB
// for each socket, or up to 8 MiB after SetReadBuffer. How many connections there are is
// not bounded: whoever accepts them counts them.
//
// # Concurrency
//
// Everything may be used from several goroutines at once. An instance has two goroutines for
// each link and those of gVisor's TCP; Close ends them all, and makes every blocked call
// return an error that wraps net.ErrClosed.
package stack
