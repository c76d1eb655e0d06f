// Package boltcheck checks the pages of a bbolt file without trusting them. It
// reports a damaged offset that may crash bbolt's own check.
package boltcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/bbolt"
)

// A bbolt file is a sequence of pages of one size. It holds a tree of nodes. A node
// fills one page or several consecutive pages. It begins with a header of 16
// bytes: its page number (8 bytes), its kind (2), the number of its elements (2)
// and the number of its pages after the first (4). Then follow its elements of 16
// bytes each, then their keys and values without gaps. Numbers are in the byte
// order of the machine.
const (
	nodeHeader  = 16
	nodeElement = 16
	metaRoot    = 32 // offsets in the meta page: the page number of the tree's root,
	metaFree    = 48 // that of the list of free pages,
	metaEnd     = 56 // and the number of pages
	noFreeList  = ^uint64(0)

	branchNode = 0x01 // its elements point to other nodes
	leafNode   = 0x02 // its elements are records or buckets
	freeNode   = 0x10 // the list of free pages
	bucketFlag = 0x01 // an element of a leaf that is a bucket
)

// maxLevels is the greatest depth to which a tree is followed. Each level has at
// least twice the keys of the level above, so no sound file comes near it.
const maxLevels = 64

// Check calls report for each problem that it finds in the pages that tx reads. It
// reads them from file, which must be the file of tx, and checks each offset
// before it follows it. (bbolt's own check follows offsets into the memory map of
// the file; an offset outside the map ends the process.) Check may run during
// writes: it reads only the pages of its own transaction.
func Check(tx *bbolt.Tx, file io.ReaderAt, report func(problem string)) {
	if file == nil {
		report("the transaction has no file to look at")
		return
	}
	var first metaPage
	if _, err := tx.WriteTo(&first); first == nil {
		report(fmt.Sprintf("page 0: %v", err))
		return
	}
	end := number(first[metaEnd:])
	if _, err := file.ReadAt(make([]byte, 1), tx.Size()-1); err != nil {
		report(fmt.Sprintf("the file ends before its %d pages do: %v", end, err))
		return
	}
	w := &pageWalk{file: file, size: uint64(len(first)), uses: make([]pageUse, end), report: report}
	w.uses[0], w.uses[1] = pageUsed, pageUsed
	listed := number(first[metaFree:])
	if listed != noFreeList {
		w.free(listed)
	}
	w.tree(treePlace{page: number(first[metaRoot:]), top: true})
	if w.found || listed == noFreeList {
		return // pages below a bad one were not seen, or there is no list of the free ones
	}
	for page, use := range w.uses {
		if use == pageUnknown {
			w.problem(uint64(page), "is neither in use nor free")
		}
	}
}

// metaPage is a writer for tx.WriteTo. It keeps the first page of the copy, which
// describes the file as the transaction sees it, and stops the copy with an error.
type metaPage []byte

func (p *metaPage) Write(page []byte) (int, error) {
	if *p != nil {
		return 0, errors.New("one page is enough")
	}
	*p = bytes.Clone(page)
	return len(page), nil
}

func number(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// pageUse is how a page is used, as far as the check has found out.
type pageUse byte

const (
	pageUnknown pageUse = iota
	pageUsed
	pageFree
)

// pageWalk is a walk through the pages of a file. Use it for one check only.
type pageWalk struct {
	file   io.ReaderAt
	size   uint64    // of a page, in bytes
	uses   []pageUse // by page number
	report func(problem string)
	found  bool              // a problem was reported
	levels [maxLevels][]byte // the current node of each level; its memory is used again
}

// treePlace is the place of a node in a tree.
type treePlace struct {
	page     uint64
	depth    int
	from, to []byte // its keys are >= from and < to; nil means no bound
	top      bool   // in the tree whose records are the buckets
}

func (w *pageWalk) problem(page uint64, format string, args ...any) {
	w.found = true
	w.report(fmt.Sprintf("page %d ", page) + fmt.Sprintf(format, args...))
}

// claim records the use of count pages from page on. It reports whether they exist
// and had no use before. If not, it has reported a problem.
func (w *pageWalk) claim(page, count uint64, use pageUse) bool {
	if page < 2 || page >= uint64(len(w.uses)) || count > uint64(len(w.uses))-page {
		w.problem(page, "is not one of the file's %d, or the %d pages of its node are not", len(w.uses), count)
		return false
	}
	for i := page; i < page+count; i++ {
		if w.uses[i] != pageUnknown {
			w.problem(i, "has two uses")
			return false
		}
		w.uses[i] = use
	}
	return true
}

// read returns the first n bytes of the node at page. It uses the memory of into if
// that is large enough.
func (w *pageWalk) read(page, n uint64, into []byte) ([]byte, error) {
	if uint64(cap(into)) < n {
		into = make([]byte, n)
	}
	_, err := w.file.ReadAt(into[:n], int64(page*w.size))
	return into[:n], err
}

// head claims all pages of a node. It returns the first page and the size of all, in
// bytes. If the node cannot be used, it reports a problem and returns nil.
func (w *pageWalk) head(page uint64, into []byte) (node []byte, bytes uint64) {
	if !w.claim(page, 1, pageUsed) {
		return nil, 0
	}
	node, err := w.read(page, w.size, into)
	if err != nil {
		w.problem(page, "cannot be read: %v", err)
		return nil, 0
	}
	if says := number(node); says != page {
		w.problem(page, "says that it is page %d", says)
		return nil, 0
	}
	more := uint64(binary.NativeEndian.Uint32(node[12:]))
	if more > 0 && !w.claim(page+1, more, pageUsed) {
		return nil, 0
	}
	return node, (1 + more) * w.size
}

// free checks the list of free pages, which is at page.
func (w *pageWalk) free(page uint64) {
	node, room := w.head(page, nil)
	if node == nil {
		return
	}
	if kind := nodeKind(node); kind != freeNode {
		w.problem(page, "is of the kind %#x and not the list of the free pages", kind)
		return
	}
	skip, count := uint64(nodeHeader), uint64(nodeCount(node))
	if count == 0xffff { // the number does not fit in the header, so it is the first entry of the list
		skip, count = skip+8, number(node[nodeHeader:])
	}
	if count > (room-skip)/8 {
		w.problem(page, "lists %d free pages, which do not fit in", count)
		return
	}
	node, err := w.read(page, skip+8*count, node)
	if err != nil {
		w.problem(page, "cannot be read: %v", err)
		return
	}
	for at := skip; at < skip+8*count; at += 8 {
		w.claim(number(node[at:]), 1, pageFree)
	}
}

// tree checks a node and all nodes below it.
func (w *pageWalk) tree(at treePlace) {
	if at.depth == maxLevels {
		w.problem(at.page, "is deeper in the tree than can be")
		return
	}
	node := w.node(at)
	if node == nil {
		return
	}
	w.order(at, node)
	branch, count := nodeKind(node) == branchNode, nodeCount(node)
	for i := range count {
		if !branch {
			w.leaf(at, node, i)
			continue
		}
		below := treePlace{page: number(node[nodeHeader+nodeElement*i+8:]), depth: at.depth + 1, from: nodeKey(node, i), to: at.to, top: at.top}
		if i+1 < count {
			below.to = nodeKey(node, i+1)
		}
		w.tree(below)
	}
}

// node reads and checks a node of a tree. If it is damaged, node reports a problem
// and returns nil. The result is valid until the next node of the same depth.
func (w *pageWalk) node(at treePlace) []byte {
	node, room := w.head(at.page, w.levels[at.depth])
	if node == nil {
		return nil
	}
	kind, count := nodeKind(node), nodeCount(node)
	if kind != branchNode && kind != leafNode || kind == branchNode && count == 0 {
		w.problem(at.page, "is of the kind %#x with %d elements and not a node of the tree", kind, count)
		return nil
	}
	table := uint64(nodeHeader + nodeElement*count)
	var err error
	if table <= room && table > uint64(len(node)) {
		node, err = w.read(at.page, table, node)
	}
	if end := nodeEnd(node); err == nil && end <= room && end > uint64(len(node)) {
		node, err = w.read(at.page, end, node)
	}
	w.levels[at.depth] = node
	if err == nil {
		err = checkNode(node)
	}
	if err != nil {
		w.problem(at.page, "is damaged: %v", err)
		return nil
	}
	return node
}

// order reports the keys of a sound node that are out of order or outside the
// bounds of at.
func (w *pageWalk) order(at treePlace, node []byte) {
	for i := range nodeCount(node) {
		key := nodeKey(node, i)
		switch {
		case i == 0 && bytes.Compare(key, at.from) < 0:
			w.problem(at.page, "has a key before those that lead to it")
		case i > 0 && bytes.Compare(nodeKey(node, i-1), key) >= 0:
			w.problem(at.page, "has a key, number %d, that is not after the one before", i)
		case at.to != nil && bytes.Compare(key, at.to) >= 0:
			w.problem(at.page, "has a key, number %d, that belongs behind it", i)
		}
	}
}

// leaf checks element i of a leaf node. At the top it is a bucket, and leaf checks
// its tree too; below it is a record, which refers to no pages. The value of a small
// bucket contains the only node of the bucket, which then has no page.
func (w *pageWalk) leaf(at treePlace, node []byte, i int) {
	flags := binary.NativeEndian.Uint32(node[nodeHeader+nodeElement*i:])
	if !at.top && flags != 0 || at.top && flags != bucketFlag {
		w.problem(at.page, "has an element, number %d, of a kind %#x that does not belong there", i, flags)
		return
	}
	if !at.top {
		return
	}
	value := nodeValue(node, i)
	if len(value) < 16 {
		w.problem(at.page, "has a bucket, number %d, of %d bytes", i, len(value))
		return
	}
	below := treePlace{page: number(value), depth: at.depth + 1}
	switch inside := value[16:]; {
	case below.page != 0 && len(inside) == 0:
		w.tree(below)
		return
	case below.page != 0 || len(inside) < nodeHeader || nodeKind(inside) != leafNode:
		w.problem(at.page, "has a bucket, number %d, that is none", i)
		return
	}
	below.page, value = at.page, value[16:]
	err := checkNode(value)
	if end := nodeEnd(value); err == nil && end != uint64(len(value)) {
		err = fmt.Errorf("it ends at byte %d of %d", end, len(value))
	}
	if err != nil {
		w.problem(at.page, "is damaged in bucket number %d: %v", i, err)
		return
	}
	w.order(below, value)
	for j := range nodeCount(value) {
		w.leaf(below, value, j)
	}
}

func nodeKind(node []byte) int  { return int(binary.NativeEndian.Uint16(node[8:])) }
func nodeCount(node []byte) int { return int(binary.NativeEndian.Uint16(node[10:])) }

// nodeSpans returns offsets in node for element i: the start of its key, the start
// of its value (which is the end of the key) and the end of its value. Elements of
// a branch node have no value. The element itself must be within node; in a
// damaged node the offsets may lie outside.
func nodeSpans(node []byte, i int) (key, value, end uint64) {
	at := nodeHeader + nodeElement*i
	b := node[at:]
	word := func(n int) uint64 { return uint64(binary.NativeEndian.Uint32(b[4*n:])) }
	if nodeKind(node) == branchNode {
		key = uint64(at) + word(0)
		value = key + word(1)
		return key, value, value
	}
	key = uint64(at) + word(1)
	value = key + word(2)
	return key, value, value + word(3)
}

// nodeEnd returns where a node ends according to its last element, which may be
// damaged. If node has no elements or contains only a part of their table, nodeEnd
// returns the end of the table.
func nodeEnd(node []byte) uint64 {
	count := nodeCount(node)
	table := nodeHeader + nodeElement*count
	if count == 0 || table > len(node) {
		return uint64(table)
	}
	_, _, end := nodeSpans(node, count-1)
	return end
}

// checkNode returns an error if the keys and values of a node are not at the offsets
// where they should be. If it returns nil, all of them are within node.
func checkNode(node []byte) error {
	count := nodeCount(node)
	next := uint64(nodeHeader + nodeElement*count)
	if next > uint64(len(node)) {
		return fmt.Errorf("its %d elements do not fit in", count)
	}
	for i := range count {
		key, value, end := nodeSpans(node, i)
		switch {
		case key != next:
			return fmt.Errorf("element %d begins at byte %d and not at %d", i, key, next)
		case key == value:
			return fmt.Errorf("element %d has no key", i)
		case end > uint64(len(node)):
			return fmt.Errorf("element %d ends at byte %d of %d", i, end, len(node))
		}
		next = end
	}
	return nil
}

// nodeKey returns the key of element i of a sound node. It shares the memory of node.
func nodeKey(node []byte, i int) []byte {
	key, value, _ := nodeSpans(node, i)
	return node[key:value]
}

// nodeValue returns the value of element i of a sound node. It shares the memory of
// node.
func nodeValue(node []byte, i int) []byte {
	_, value, end := nodeSpans(node, i)
	return node[value:end]
}
