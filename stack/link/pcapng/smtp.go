package pcapng

import (
	"bytes"
)

// unknown is for a flow without a direction that is known to be the client's.
const unknown = -1

// flow follows a TCP connection that may be an SMTP session, to find out which bytes
// of the client are credentials.
//
// It relies on causality. Each side's reaction passes the interface after what it
// reacts to, and with an acknowledgment of that. So lines of the client are
// credentials until one acknowledges the server's last word on them.
type flow struct {
	key          flowKey
	newer, older *flow

	client  int  // the direction that the client sends in, or unknown
	kind    kind // as far as it is known
	suspect bool // it may have been forgotten in the middle of an exchange
	half    [2]half
}

// half is what is known about one direction.
type half struct {
	stream
	secrets spans
	client  client
	server  server
}

// kind is what a connection is used for.
type kind uint8

const (
	kindUnknown kind = iota
	kindSMTP
	kindOther   // the client doesn't begin as one of SMTP does
	kindForeign // the server doesn't either, or they use TLS: nothing is secret
)

// client is how far the commands of an SMTP client have been read.
type client struct {
	state state
	line  lineStart // in inCommand, and for whether a line begins in inAuth

	over   bool  // inAuth: the server's last word has come,
	said   int64 // and ends before this byte
	unsure bool  // inAuth: bytes are missing, so this may be something else
	hole   int64 // where they are missing, if unsure

	pending  bool  // inData: the server hasn't agreed yet
	dot      int   // inData: how much of CRLF.CRLF has been seen
	chunkEnd int64 // inChunk
}

type state uint8

const (
	inCommand state = iota
	inAuth          // lines after AUTH
	inData          // a message, up to the final dot
	inChunk         // a message, as much as BDAT has said (RFC 3030)
)

// server is how far the replies of an SMTP server have been read.
type server struct{ line lineStart }

func (f *flow) mayBeClient(dir int) bool { return f.client == unknown || f.client == dir }

// inExchange reports whether credentials may be next.
func (f *flow) inExchange() bool {
	return f.kind != kindForeign && (f.half[0].client.state == inAuth || f.half[1].client.state == inAuth)
}

// take follows the connection by one segment. It returns the number of the segment's
// first byte, and whether its payload as a whole may be secret. What else is secret
// is then in secrets.
func (f *flow) take(s *segment) (pos int64, doubt bool) {
	h := &f.half[s.dir]
	seq := s.seq
	if s.flags&flagSYN != 0 {
		seq++
		if !s.damaged {
			f.open(s)
		}
	}
	if s.damaged {
		return h.position(seq), f.mayHoldCommands(s.dir)
	}
	if f.client == unknown {
		f.guessClient(s)
	}
	if !h.known {
		f.join(s.dir, seq)
	}
	pos = h.position(seq)
	if pos > h.next {
		f.skip(s.dir, pos)
	}
	if end := pos + int64(len(s.payload)); end > h.next {
		fresh := h.next
		h.next = end
		f.read(s, fresh, s.payload[fresh-pos:])
	}
	return pos, false
}

// open begins the connection anew, unless the SYN is a retransmission.
func (f *flow) open(s *segment) {
	h := &f.half[s.dir]
	if h.fromSYN && h.isn == s.seq {
		return
	}
	if s.flags&flagACK != 0 {
		f.client = 1 - s.dir
		*h = half{}
	} else {
		f.client, f.kind, f.suspect = s.dir, kindUnknown, false
		f.half = [2]half{}
	}
	h.fromSYN, h.isn = true, s.seq
	h.begin(s.seq + 1)
	h.secrets.before = h.next
}

// guessClient decides who the client is where no SYN has told.
func (f *flow) guessClient(s *segment) {
	if isCommand(s.payload) {
		f.client = s.dir
	} else if isReplyLine(s.payload) {
		f.client = 1 - s.dir
	}
}

// join begins to follow a direction that was open before.
func (f *flow) join(dir int, seq uint32) {
	h := &f.half[dir]
	h.begin(seq)
	h.secrets.before = h.next
	if f.suspect && f.mayBeClient(dir) {
		h.client.lose(h.next)
	}
}

// mayHoldCommands reports whether bytes of unknown position in this direction may be
// commands.
func (f *flow) mayHoldCommands(dir int) bool {
	c := &f.half[dir].client
	return f.mayBeClient(dir) && (f.kind == kindUnknown || f.kind == kindSMTP) && (c.state == inCommand || c.state == inAuth)
}

// skip goes on to the byte pos, those up to there being missing.
func (f *flow) skip(dir int, pos int64) {
	h := &f.half[dir]
	c := &h.client
	h.server.line.spoil()
	f.half[1-dir].client.over = false // a challenge may be what is missing
	switch {
	case !f.mayBeClient(dir), f.kind == kindForeign:
	case c.state == inData && !c.pending:
		c.dot = 0
	case c.state == inChunk && pos <= c.chunkEnd:
	case f.kind == kindOther:
		c.line.spoil()
	default:
		if !c.unsure {
			c.lose(h.next)
		}
		c.line.spoil()
		h.secrets.add(h.next, pos)
	}
	h.next = pos
}

// read reads the bytes b from number pos on, all of them new.
func (f *flow) read(s *segment, pos int64, b []byte) {
	if f.mayBeClient(s.dir) {
		f.readClient(s, pos, b)
	}
	if f.client != s.dir {
		f.readServer(s, pos, b)
	}
}

// readClient reads what the client sends.
func (f *flow) readClient(s *segment, pos int64, b []byte) {
	c := &f.half[s.dir].client
	for len(b) > 0 && f.kind != kindForeign {
		var n int
		switch c.state {
		case inCommand:
			n = f.readCommand(s.dir, pos, b)
		case inAuth:
			n = f.readResponse(s, pos, b)
		case inData:
			if c.pending && c.dot == atLineStart && mayBeCommand(b) {
				c.state = inCommand // it was refused, and that is missing
				break
			}
			n = c.readData(b)
		case inChunk:
			n = int(min(int64(len(b)), max(c.chunkEnd-pos, 0)))
			if pos+int64(n) >= c.chunkEnd {
				c.state = inCommand
			}
		}
		pos += int64(n)
		b = b[n:]
	}
}

// readCommand reads a line, or what there is of it, and returns its length.
func (f *flow) readCommand(dir int, pos int64, b []byte) int {
	h := &f.half[dir]
	c := &h.client
	if c.line.isEmpty() && isTLS(b) {
		f.kind = kindForeign
		return len(b)
	}
	line, whole := cutLine(b)
	before := c.line.size
	c.line.add(line)
	f.judge(dir, whole)
	if secret, ok := c.line.credentials(); ok {
		f.kind = kindSMTP
		h.secrets.add(pos+max(0, int64(secret)-before), pos+int64(len(line)))
		if whole {
			c.state, c.over, c.unsure = inAuth, false, false
		}
	}
	if whole {
		c.endCommand(pos + int64(len(line)))
	}
	return len(line)
}

// judge decides by the client's first line what kind of connection this may be.
func (f *flow) judge(dir int, whole bool) {
	h := &f.half[dir]
	if f.kind == kindUnknown && h.fromSYN && (whole || h.client.line.isFull()) {
		f.kind = kindOther
		if isCommand(h.client.line.bytes()) {
			f.kind = kindSMTP
		}
	}
}

// endCommand begins what follows a command line that ends before byte end.
func (c *client) endCommand(end int64) {
	line := bytes.TrimRight(c.line.bytes(), " \t\r\n")
	c.line.reset()
	if bytes.EqualFold(line, []byte("DATA")) {
		c.state, c.pending, c.dot = inData, true, atLineStart
	}
	if size, ok := chunkSize(line); ok {
		c.state, c.chunkEnd = inChunk, end+size
	}
}

// readResponse reads a line of an exchange.
func (f *flow) readResponse(s *segment, pos int64, b []byte) int {
	h := &f.half[s.dir]
	c := &h.client
	if c.line.isEmpty() {
		if isTLS(b) {
			f.kind = kindForeign
			return len(b)
		}
		if c.over && (f.acknowledges(s, c) || isCommand(b)) {
			c.state, c.unsure = inCommand, false
			return 0
		}
	}
	line, whole := cutLine(b)
	h.secrets.add(pos, pos+int64(len(line)))
	c.line.add(line)
	if whole {
		c.line.reset()
	}
	return len(line)
}

// acknowledges reports whether the sender of s knew the server's last word, and no
// word after it that wasn't seen here.
func (f *flow) acknowledges(s *segment, c *client) bool {
	server := &f.half[1-s.dir]
	ack := server.position(s.ack)
	return !c.unsure && s.flags&flagACK != 0 && ack >= c.said && ack <= server.next
}

// finalDot ends a message (RFC 5321, section 4.1.1.4).
const (
	finalDot    = "\r\n.\r\n"
	atLineStart = 2
)

// readData reads up to the end of the message, and returns how many bytes that is.
func (c *client) readData(b []byte) (n int) {
	for n < len(b) {
		switch {
		case c.dot == 0:
			i := bytes.IndexByte(b[n:], '\r')
			if i < 0 {
				return len(b)
			}
			n += i
			c.dot = 1
		case b[n] == finalDot[c.dot]:
			c.dot++
		case b[n] == '\r':
			c.dot = 1
		default:
			c.dot = 0
		}
		n++
		if c.dot == len(finalDot) {
			c.state = inCommand
			c.line.reset()
			return n
		}
	}
	return n
}

// lose makes c one that blanks all that comes, from a hole in the stream on.
func (c *client) lose(hole int64) {
	c.state, c.over, c.unsure, c.hole = inAuth, false, true, hole
	c.line.spoil()
}

// readServer reads what the server sends.
func (f *flow) readServer(s *segment, pos int64, b []byte) {
	h := &f.half[s.dir]
	l := &h.server.line
	for len(b) > 0 && f.kind != kindForeign {
		first := h.fromSYN && pos == 1<<32|int64(h.isn+1)
		line, whole := cutLine(b)
		if l.isEmpty() && isTLS(b) || first && !isReply(b) {
			f.kind = kindForeign
			return
		}
		if first {
			f.kind = kindSMTP
		}
		l.add(line)
		pos += int64(len(line))
		b = b[len(line):]
		if !whole {
			return
		}
		if code, ok := l.reply(); ok {
			f.reply(s, code, pos)
		}
		l.reset()
	}
}

// reply takes note of a reply that ends before byte end.
func (f *flow) reply(s *segment, code int, end int64) {
	h := &f.half[1-s.dir]
	if !h.known {
		return
	}
	c := &h.client
	ack := h.position(s.ack)
	switch {
	case code == 354:
		f.agree(h, ack)
	case code == 334:
		c.resync(h, ack)
		c.state, c.over, c.unsure = inAuth, false, false
	case c.state == inAuth && (code == 235 || code >= 400 || c.unsure):
		c.over, c.said = true, end
		c.resync(h, ack)
	case c.state == inData && c.pending && code >= 400,
		c.state == inData && !c.pending && ack >= h.next:
		h.jump(ack)
		c.state = inCommand
		c.line.reset()
	case c.state == inData && !c.pending && code < 400:
		// The message is over, and what has been seen isn't all of it: a stray segment.
		c.lose(ack)
		c.over, c.said = true, end
		c.resync(h, ack)
	}
}

// agree begins a message, because the server wants to have it. The next byte is its
// first: a client waits for this reply.
func (f *flow) agree(h *half, ack int64) {
	c := &h.client
	if c.state != inData {
		c.resync(h, ack)
		c.state, c.unsure, c.dot = inData, false, atLineStart
	}
	c.pending = false
}

// resync makes the client's next line begin where the server has read to, after
// bytes were missing: it replies when it has got them.
func (c *client) resync(h *half, ack int64) {
	if !c.unsure {
		return
	}
	c.line.reset()
	if ack >= c.hole {
		h.next = min(h.next, ack)
		h.secrets.cut(h.next)
		h.jump(ack)
	}
}

// jump goes on to the byte that the server expects next. If those up to there come
// after all, they are secret.
func (h *half) jump(ack int64) {
	if ack > h.next {
		h.secrets.add(h.next, ack)
		h.next = ack
	}
}
