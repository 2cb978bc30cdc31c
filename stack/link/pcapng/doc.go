// Package pcapng records the frames of a link.Device in a file that Wireshark and
// tshark read: the pcapng format (draft-ietf-opsawg-pcapng).
//
// Wrap a device, and what passes through it is in the file:
//
//	w, err := pcapng.Create("mail.pcapng")
//	...
//	dev = pcapng.Wrap(dev, w)
//
// One [Writer] takes several devices, one [Interface] each; so a test has what it saw
// at both ends of a cable in one file. Each frame has a direction, a time, and a
// comment where there is something to say: that it was dropped and why
// ([Interface.Drop]), that it couldn't be sent, that credentials in it are blanked.
//
// # What a record shows
//
// A frame is recorded as it passes the wrapper, before it is sent or delivered. So a
// frame that the device then refuses is in the file, and a second time with the
// reason as its comment. A super-frame is one long frame, as in a capture on Linux;
// its checksum, which is partial on the link, is complete in the file. The frame
// itself is left as it is.
//
// # Credentials
//
// Mail is sent with a password, and captures are mailed around. So unless
// Config.Secrets is set, the credentials of SMTP AUTH (RFC 4954) are overwritten with
// asterisks in the file, on TCP connections over IPv4 and IPv6 to any port: on a line
// AUTH all that follows the mechanism's name, and after it each line of the client up
// to the server's last word. Line ends stay, and the TCP checksum fits the new bytes.
// Neither commands nor messages are touched, not even a message with such a line.
// Retransmissions are overwritten where the first transmission was.
//
// Where it isn't sure what the bytes are, it overwrites too much. These are
// overwritten as a whole, with a comment that says so:
//
//   - a segment that comes out of order among commands, and what follows it up to
//     the server's next reply; a segment that is out of order in a message is not
//   - a segment with a wrong checksum among commands
//   - TCP in IP fragments, IP packets whose headers contradict themselves, and what
//     ICMP errors quote of TCP
//   - connections that were already open when they were first seen, once there have
//     been so many at a time that one with an exchange under way was forgotten
//
// What it can't know: it takes a frame for what its EtherType and IP protocol say,
// so a bit error there hides credentials from it. It takes what follows a gap in a
// message for more of the message, and the first bytes that it sees of a connection
// that was open before for the beginning of a command.
//
// Passwords of other protocols stay, and so does the rest of the mail. A capture is as
// confidential as what it captures: [Create] makes files for their owner only.
//
// # Files and crashes
//
// Records are collected for each batch of frames, one call of Send or deliver, and
// written when the batch ends or 64 KiB have come together. So a program that
// crashes loses at most the batch in hand, and its last record may be cut short;
// what survives a crash of the machine is up to the system. The price is a call of
// Write for each batch; give [NewWriter] a buffered writer of your own to have fewer.
// A writer that blocks, blocks the traffic.
//
// When writing fails, the capture ends and the traffic goes on. [Writer.Err] and
// [Writer.Close] tell.
package pcapng
