package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"

	"latchkey/internal/rowcut"
)

// sendParts sends an import in parts, each all or nothing, because a cluster takes no more at once: the
// server has refused the whole file with that reason, after it has found that all rows can be imported. It prints what was imported, also
// if a later part fails.
func (s *session) sendParts(ctx context.Context, c *cli.Command, u upload, path string, refused *ClientError) (err error) {
	f, err := u.cut()
	if err != nil { // the server has read the file, so it should not happen
		return fmt.Errorf("%s: %w; the file cannot be cut into parts: %w", u.file, refused, err)
	}
	client, done, err := s.reach(ctx, c)
	if err != nil {
		return interrupted(ctx, err, "nothing was imported")
	}
	defer func() { err = errors.Join(err, done()) }()
	all := importSum{file: f, member: u.member}
	sent, failed, err := f.Send(refused.MaxRows, func(from, to int) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		var answer map[string]any
		work := s.startWork(ctx, c)
		err := work.sendWhole(client, RawRequest{http.MethodPost, path, f.Type, f.Part(from, to)}, &answer)
		work.end()
		if e, ok := errors.AsType[*ClientError](err); ok {
			for i := range e.Rows {
				e.Rows[i].Row, e.Rows[i].Line = e.Rows[i].Row+from, f.Line(e.Rows[i].Row+from-1)
			}
			return e.MaxRows, err
		}
		if err == nil {
			all.add(answer, from)
		}
		return 0, err
	})
	if sent > 0 {
		if printed := s.printImport(c, all.answer(sent)); printed != nil {
			return printed
		}
	}
	if err == nil {
		return nil
	}
	outcome := partsOutcome(err, sent, failed, f.Len())
	if ended := interrupted(ctx, err, outcome); ended != err {
		return ended
	}
	if e, ok := errors.AsType[*ClientError](err); ok && len(e.Rows) > 0 {
		return u.refusal(err, outcome)
	}
	return fmt.Errorf("%s: %s: %w", u.file, outcome, err)
}

// cut returns the rows of the file.
func (u upload) cut() (*rowcut.File, error) {
	kind, parameters, err := mime.ParseMediaType(u.contentType)
	if err != nil {
		return nil, err
	}
	if kind == "text/csv" {
		return rowcut.CSV(u.data, parameters["charset"])
	}
	return rowcut.JSON(u.data, u.member)
}

// partsOutcome returns which rows of a file are imported after err: those that were sent, but not those of the part
// that has failed, and none after it.
func partsOutcome(err error, sent, failed, total int) string {
	list := []string{}
	if sent > 0 {
		list = append(list, rowsText(0, sent, "imported"))
	}
	if e, ok := errors.AsType[*ClientError](err); ok && e.Status < http.StatusInternalServerError || errors.Is(err, context.Canceled) {
		failed = 0 // nothing of the part is stored
	}
	if failed > 0 {
		list = append(list, rowsText(sent, sent+failed, "perhaps imported, so look before you import them again"))
	}
	if sent+failed < total {
		list = append(list, rowsText(sent+failed, total, "not imported"))
	}
	return strings.Join(list, ", ")
}

// rowsText returns a text such as "rows 3 to 7 are imported", for the rows from one up to another, which is not among them.
func rowsText(from, to int, what string) string {
	if to == from+1 {
		return fmt.Sprintf("row %d is %s", to, what)
	}
	return fmt.Sprintf("rows %d to %d are %s", from+1, to, what)
}

// importSum adds up the answers to the parts of an import.
type importSum struct {
	file   *rowcut.File
	member string // of an answer with the keys that were imported
	sum    map[string]any
	parts  int
}

// add adds the answer to a part that begins with the row from, counted from 0.
func (a *importSum) add(answer map[string]any, from int) {
	duplicates, _ := answer["duplicates"].([]any)
	for _, v := range duplicates {
		row, _ := v.(map[string]any)
		for _, name := range []string{"row", "other_row"} {
			if row[name] != nil {
				row[name] = number(whole(row[name]) + from)
			}
		}
		if row["line"] != nil {
			row["line"] = number(a.file.Line(whole(row["row"]) - 1))
		}
	}
	if a.parts++; a.parts == 1 {
		a.sum = answer
		return
	}
	for _, name := range []string{"count", "updated", "skipped", "duplicate_count"} {
		if answer[name] != nil {
			a.sum[name] = number(whole(a.sum[name]) + whole(answer[name]))
		}
	}
	for _, name := range []string{"duplicates", a.member} {
		if more, ok := answer[name].([]any); ok {
			before, _ := a.sum[name].([]any)
			a.sum[name] = append(before, more...)
		}
	}
	if answer["effective"] != nil {
		a.sum["effective"] = answer["effective"]
	}
}

// number returns a number as it is in an answer of the server.
func number(n int) json.Number { return json.Number(strconv.Itoa(n)) }

// answer returns the sum as the answer to one import of so many rows.
func (a *importSum) answer(sent int) map[string]any {
	message := fmt.Sprintf("Imported %d rows in %d parts", sent, a.parts)
	if a.parts == 1 {
		message = fmt.Sprintf("Imported %d rows", sent)
	}
	if updated, skipped := whole(a.sum["updated"]), whole(a.sum["skipped"]); updated+skipped > 0 {
		message += fmt.Sprintf(": %d created, %d updated, %d skipped", whole(a.sum["count"])-updated, updated, skipped)
	}
	a.sum["message"] = message + "."
	return a.sum
}
