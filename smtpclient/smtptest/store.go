package smtptest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"net"
	"strings"
	"sync"
	"sync/atomic"
)

// Message is a mail as a Store got it.
type Message struct {
	Hello  string   // the EHLO or HELO command
	User   string   // who authenticated; may be empty
	From   string   // what stood in the angle brackets of MAIL
	Params []string // of MAIL
	To     []string
	Data   []byte   // dots halved; nil with Store.Digest
	Size   int64    // len of Data
	SHA256 [32]byte // of Data
}

// Store is a correct SMTP server (RFC 5321) that keeps the messages it gets. It demands
// CRLF everywhere: a bare CR or LF is answered with 500 and the end of the connection,
// and makes Problems. Its fields are not to be changed while it serves.
type Store struct {
	// Extensions are lines of the EHLO reply. Default: 8BITMIME, ENHANCEDSTATUSCODES
	// and MT-PRIORITY; and AUTH PLAIN LOGIN with a Username. Make it empty and not nil
	// to offer none.
	Extensions []string

	// Username and Password, if set, are demanded before MAIL.
	Username, Password string

	// Refuse is asked for each command line, with "." for the end of a message. What
	// it returns is sent as the reply, and the command is not obeyed, unless it is
	// empty. It may be called from several goroutines at once.
	Refuse func(command string) string

	// Digest keeps only size and hash of each message.
	Digest bool

	mu       sync.Mutex
	messages []Message
	problems []error
	served   atomic.Int64
}

// Serve answers each connection that l accepts, until l is closed, and then waits for
// those that are open. The error is l's.
func (s *Store) Serve(l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		wg.Go(func() {
			s.served.Add(1)
			s.ServeConn(conn)
		})
	}
}

// ServeConn answers one connection and closes it.
func (s *Store) ServeConn(conn net.Conn) {
	defer conn.Close()
	c := storeConn{store: s, conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	if err := c.serve(); err != nil && !errors.Is(err, errOver) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.problems = append(s.problems, err)
	}
}

// Messages returns what was accepted, in order of arrival.
func (s *Store) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Message(nil), s.messages...)
}

// Connections is how many connections were accepted.
func (s *Store) Connections() int { return int(s.served.Load()) }

// Problems is what clients did that no client may; nil if they did nothing. A client
// that just closes is no problem.
func (s *Store) Problems() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.problems...)
}

// storeConn is one session.
type storeConn struct {
	store  *Store
	conn   net.Conn
	in     *bufio.Reader
	authed bool
	inMail bool
	msg    Message
}

func (c *storeConn) reply(format string, args ...any) error {
	if _, err := fmt.Fprintf(c.conn, format+"\r\n", args...); err != nil {
		return errOver // the client is gone, which it may
	}
	return nil
}

// line reads a command line.
func (c *storeConn) line() (string, error) {
	b, err := c.in.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		return "", errors.New("a command line of more than 64 KiB")
	}
	if err != nil {
		return "", errOver
	}
	if err := checkLine(b); err != nil {
		_ = c.reply("500 5.5.2 %v", err)
		return "", fmt.Errorf("command %q: %w", b, err)
	}
	return string(b[:len(b)-2]), nil
}

func (c *storeConn) serve() error {
	if err := c.reply("220 store.example ESMTP"); err != nil {
		return err
	}
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		if c.store.Refuse != nil {
			if r := c.store.Refuse(line); r != "" {
				if err := c.reply("%s", r); err != nil {
					return err
				}
				continue
			}
		}
		if err := c.command(line); err != nil {
			return err
		}
	}
}

func (c *storeConn) command(line string) error {
	verb, arg, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO":
		return c.ehlo(line)
	case "HELO":
		c.reset()
		c.msg.Hello = line
		return c.reply("250 store.example")
	case "AUTH":
		return c.auth(arg)
	case "MAIL":
		return c.mail(arg)
	case "RCPT":
		return c.rcpt(arg)
	case "DATA":
		return c.data()
	case "RSET":
		c.reset()
		return c.reply("250 2.0.0 reset")
	case "NOOP":
		return c.reply("250 2.0.0 ok")
	case "QUIT":
		_ = c.reply("221 2.0.0 bye")
		return errOver
	}
	return c.reply("500 5.5.1 unknown command")
}

func (c *storeConn) reset() {
	c.inMail = false
	c.msg.From, c.msg.Params, c.msg.To = "", nil, nil
}

func (c *storeConn) ehlo(line string) error {
	c.reset()
	c.msg.Hello = line
	ext := c.store.Extensions
	if ext == nil {
		ext = []string{"8BITMIME", "ENHANCEDSTATUSCODES", "MT-PRIORITY"}
		if c.store.Username != "" {
			ext = append(ext, "AUTH PLAIN LOGIN")
		}
	}
	lines := append([]string{"store.example"}, ext...)
	var b strings.Builder
	for i, l := range lines {
		sep := "-"
		if i == len(lines)-1 {
			sep = " "
		}
		b.WriteString("250" + sep + l + "\r\n")
	}
	return c.reply("%s", strings.TrimSuffix(b.String(), "\r\n"))
}

// auth runs AUTH PLAIN and AUTH LOGIN.
func (c *storeConn) auth(arg string) error {
	mechanism, initial, hasInitial := strings.Cut(arg, " ")
	var user, password string
	switch strings.ToUpper(mechanism) {
	case "PLAIN":
		if !hasInitial {
			var err error
			if initial, err = c.challenge(""); err != nil {
				return err
			}
		}
		parts := strings.Split(decode(initial), "\x00")
		if len(parts) != 3 || parts[0] != "" {
			return c.reply("501 5.5.2 that is no PLAIN answer")
		}
		user, password = parts[1], parts[2]
	case "LOGIN":
		var err error
		if user, err = c.challenge("Username:"); err != nil {
			return err
		}
		if password, err = c.challenge("Password:"); err != nil {
			return err
		}
		user, password = decode(user), decode(password)
	default:
		return c.reply("504 5.5.4 unknown mechanism")
	}
	if c.store.Username == "" || user != c.store.Username || password != c.store.Password {
		return c.reply("535 5.7.8 authentication credentials invalid")
	}
	c.authed = true
	c.msg.User = user
	return c.reply("235 2.7.0 welcome")
}

func (c *storeConn) challenge(text string) (string, error) {
	if err := c.reply("334 %s", base64.StdEncoding.EncodeToString([]byte(text))); err != nil {
		return "", err
	}
	return c.line()
}

// decode decodes base64; what isn't any is nobody's password.
func decode(s string) string {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return "\x00not base64\x00\x00"
	}
	return string(b)
}

func (c *storeConn) mail(arg string) error {
	path, params, ok := parsePath(arg, "FROM:")
	switch {
	case !ok:
		return c.reply("501 5.5.4 syntax: MAIL FROM:<address>")
	case c.msg.Hello == "":
		return c.reply("503 5.5.1 EHLO first")
	case c.inMail:
		return c.reply("503 5.5.1 one mail at a time")
	case c.store.Username != "" && !c.authed:
		return c.reply("530 5.7.0 authentication required")
	}
	c.inMail = true
	c.msg.From, c.msg.Params = path, params
	return c.reply("250 2.1.0 ok")
}

func (c *storeConn) rcpt(arg string) error {
	path, _, ok := parsePath(arg, "TO:")
	switch {
	case !ok || path == "":
		return c.reply("501 5.5.4 syntax: RCPT TO:<address>")
	case !c.inMail:
		return c.reply("503 5.5.1 MAIL first")
	}
	c.msg.To = append(c.msg.To, path)
	return c.reply("250 2.1.5 ok")
}

// parsePath takes "FROM:<path> A B=C" apart. A > in a quoted local part doesn't end
// the path.
func parsePath(arg, prefix string) (path string, params []string, ok bool) {
	if len(arg) < len(prefix) || !strings.EqualFold(arg[:len(prefix)], prefix) {
		return "", nil, false
	}
	arg = arg[len(prefix):]
	if !strings.HasPrefix(arg, "<") {
		return "", nil, false
	}
	quoted := false
	for i := 1; i < len(arg); i++ {
		switch {
		case quoted && arg[i] == '\\':
			i++
		case arg[i] == '"':
			quoted = !quoted
		case arg[i] == '>' && !quoted:
			rest := arg[i+1:]
			if rest != "" && rest[0] != ' ' {
				return "", nil, false
			}
			return arg[1:i], strings.Fields(rest), true
		}
	}
	return "", nil, false
}

// data receives a message.
func (c *storeConn) data() error {
	if len(c.msg.To) == 0 {
		return c.reply("503 5.5.1 RCPT first")
	}
	if err := c.reply("354 go ahead"); err != nil {
		return err
	}
	body := newCollector(!c.store.Digest)
	if err := c.receive(body); err != nil {
		return err
	}
	if c.store.Refuse != nil {
		if r := c.store.Refuse("."); r != "" {
			c.reset()
			return c.reply("%s", r)
		}
	}
	m := c.msg
	m.Data, m.Size = body.data, body.size
	body.hash.Sum(m.SHA256[:0])
	c.store.mu.Lock()
	c.store.messages = append(c.store.messages, m)
	c.store.mu.Unlock()
	c.reset()
	return c.reply("250 2.0.0 stored %d bytes", m.Size)
}

// receive reads lines up to the final dot. A line may come in pieces.
func (c *storeConn) receive(body *collector) error {
	atStart := true // of a line
	for {
		piece, err := c.in.ReadSlice('\n')
		whole := err == nil
		if err != nil && err != bufio.ErrBufferFull {
			return errOver // the client gave up, and the message is none
		}
		if !whole && piece[len(piece)-1] == '\r' { // leave the CR for its LF
			piece = piece[:len(piece)-1]
			_ = c.in.UnreadByte()
		}
		if whole {
			err = checkLine(piece)
		} else if err = nil; bytes.IndexByte(piece, '\r') >= 0 {
			err = errors.New("bare CR")
		}
		if err != nil {
			_ = c.reply("500 5.5.2 %v in the message", err)
			return fmt.Errorf("message after %d bytes: %w", body.size, err)
		}
		if atStart && piece[0] == '.' {
			if string(piece) == ".\r\n" {
				return nil
			}
			piece = piece[1:]
		}
		body.add(piece)
		atStart = whole
	}
}

// collector keeps a message, or only its size and hash.
type collector struct {
	keep bool
	data []byte
	size int64
	hash hash.Hash
}

func newCollector(keep bool) *collector {
	c := &collector{keep: keep, hash: sha256.New()}
	if keep {
		c.data = []byte{}
	}
	return c
}

func (c *collector) add(b []byte) {
	c.size += int64(len(b))
	_, _ = c.hash.Write(b) // never fails
	if c.keep {
		c.data = append(c.data, b...)
	}
}
