// Package smtptest has SMTP servers for tests, in the manner of net/http/httptest:
//
//   - a [Store] is a correct server that keeps each message, to be compared byte for
//     byte with what was sent;
//   - a [Dialogue] is a script: what the server says and what it expects to hear, line
//     by line, with everything that a bad server or a bad link does: replies that
//     arrive in pieces, silence, closing, resets. [Serve] runs it for each connection.
//
// Both serve any net.Listener: a kernel socket, an instance of package stack, or a
// [Listener], which is a network in memory that is a Dialer too. The latter needs no
// port and no root, and works in a testing/synctest bubble, where a server that is
// silent for ten minutes takes no time.
//
//	l := smtptest.Listen()
//	store := new(smtptest.Store)
//	go store.Serve(l)
//	c, err := smtpclient.New(smtpclient.Config{Dialer: l, Server: l.Addr().String(), ...})
package smtptest
