// Package tap is a link.Device on a Linux TAP: the other end of an interface of the
// host's kernel.
//
//	dev, err := tap.Open(tap.Config{Name: "tap0", Offload: true, Up: true})
//
// What is sent to dev, the host receives on tap0, and the other way round. The host's
// end has a MAC and IP addresses of its own, which are not those of the stack on dev.
//
// # Two kinds
//
// With Config.Offload the device exchanges super-frames and partial checksums with
// the kernel, as if it were a network card with segmentation offload, and receives in
// batches. That is about twenty times as fast. What the kernel doesn't offer is left
// out, which Config.Logger is told once, and Features says. Without Offload each
// frame is one plain frame and one system call.
//
// # Permissions
//
// To create an interface, or change its MTU, MAC or state, takes CAP_NET_ADMIN. To
// open one that [Create] has made takes its owner only. The device file /dev/net/tun
// has to be accessible to the user in any case.
//
// Errors wrap *os.SyscallError, and errors.Is tells them apart: fs.ErrPermission,
// syscall.EBUSY (in use by another program), syscall.ENODEV (no such interface),
// fs.ErrNotExist (no TAP support in this kernel), fs.ErrExist (Create).
package tap
