// Package memlink joins link.Devices in memory: a cable between two of them ([Pair],
// [New]), and a learning switch between many ([NewSwitch]).
//
// There is no goroutine, and hardly a queue. Send calls the deliver functions of the
// devices that receive, in the goroutine of the sender, with the sender's own frames,
// super-frames and partial checksums included. So a frame is copied once, by its
// receiver, and costs no more than the call. It follows that deliver may run in
// several goroutines at once, and that it may Send in turn, down to where the
// recursion ends.
//
// Up to 64 frames that reach a device between Watch and Receive are kept for the latter;
// so a host that watches before it receives misses no answer to what it sends when the
// carrier comes. What comes beyond these, before, or after Receive has ended, is lost as
// on a real cable: Send reports success and [Stats] counts the loss. A cable that is
// unplugged ([Device.SetUp]) or whose other end is closed has no carrier: both ends are
// told through Watch, and Send returns link.ErrDown.
package memlink
