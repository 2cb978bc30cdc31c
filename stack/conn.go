package stack

import (
	"net"
	"time"
)

// conn is what TCPConn and UDPConn have in common.
type conn struct{ s *socket }

// LocalAddr returns the address of our end, a *net.TCPAddr or *net.UDPAddr. Don't change
// it.
func (c *conn) LocalAddr() net.Addr { return c.s.local }

// RemoteAddr returns the address of the other end, or nil if there is none. Don't change
// it.
func (c *conn) RemoteAddr() net.Addr { return c.s.remote }

// Close closes the connection: calls that wait return an error that wraps net.ErrClosed,
// as a second Close does. See TCPConn for what becomes of data on its way.
func (c *conn) Close() error {
	if err := c.s.close(); err != nil {
		return c.s.opError("close", err)
	}
	return nil
}

// SetDeadline sets the time from which on calls fail with an error that wraps
// os.ErrDeadlineExceeded, those that wait already included. A zero t means never. Time is
// that of Config.Clock.
func (c *conn) SetDeadline(t time.Time) error {
	return c.s.setError(c.s.setDeadline(t, &c.s.in, &c.s.out))
}

// SetReadDeadline is SetDeadline for calls that read.
func (c *conn) SetReadDeadline(t time.Time) error {
	return c.s.setError(c.s.setDeadline(t, &c.s.in))
}

// SetWriteDeadline is SetDeadline for calls that write. A Write that it ends may have sent
// some of its bytes.
func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.s.setError(c.s.setDeadline(t, &c.s.out))
}

// SetReadBuffer sets the size of the receive buffer, in bytes, 4 KiB to
// TCPConfig.ReceiveBuffer for TCP and 8 MiB for UDP; what is out of that range is moved
// into it. For TCP it ends the automatic sizing, which is usually better.
func (c *conn) SetReadBuffer(bytes int) error {
	return c.set(func() {
		opts := c.s.ep.SocketOptions()
		lowest, highest := opts.ReceiveBufferLimits()
		opts.SetReceiveBufferSize(min(max(int64(bytes), lowest), highest), true)
	})
}

// SetWriteBuffer sets the size of the send buffer, in bytes, 4 KiB to
// TCPConfig.SendBuffer for TCP; what is out of that range is moved into it.
func (c *conn) SetWriteBuffer(bytes int) error {
	return c.set(func() {
		opts := c.s.ep.SocketOptions()
		lowest, highest := opts.SendBufferLimits()
		opts.SetSendBufferSize(min(max(int64(bytes), lowest), highest), true)
	})
}

// set sets an option, unless the connection is closed.
func (c *conn) set(option func()) error {
	if c.s.over.Load() {
		return c.s.setError(c.s.overError())
	}
	option()
	return nil
}
