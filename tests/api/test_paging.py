"""Lists: newest first, a page at a time, and the `Link` of each leads to the next."""

import re
from collections.abc import Iterator

from tests.api.conftest import Client, items, make_job


def pages(client: Client, path: str) -> Iterator[list[str]]:
    """The ids of one page after the other, by following the links to the end."""
    while path:
        response = client.get(path)
        assert response.status_code == 200, response.text
        yield [row["id"] for row in response.json["data"]]
        following = re.fullmatch(r'<(.+)>; rel="next"', response.headers.get("Link", ""))
        path = following[1] if following else ""


def upload(client: Client) -> str:
    input_id: str = client.post("/v1/inputs", json={"data": [{}]}).json["id"]
    return input_id


def test_pages_lead_through_all_inputs_newest_first_without_a_double(client: Client) -> None:
    ids = [upload(client) for _ in range(7)]

    reading = pages(client, "/v1/inputs?limit=3")
    first = next(reading)
    upload(client)  # what comes meanwhile is newer than all that is left to read

    newest_first = ids[::-1]
    assert [first, *reading] == [newest_first[:3], newest_first[3:6], newest_first[6:]]


def test_a_page_that_holds_the_rest_has_no_next(client: Client) -> None:
    ids = [upload(client) for _ in range(3)]

    assert "Link" not in client.get("/v1/inputs?limit=3").headers
    assert "Link" in client.get("/v1/inputs?limit=2").headers
    assert client.get(f"/v1/inputs?cursor={ids[0]}").json == {"data": []}
    # A cursor is a place, not a row: it need not exist any more.
    assert client.delete(f"/v1/inputs/{ids[1]}").status_code == 204
    assert list(pages(client, f"/v1/inputs?cursor={ids[1]}")) == [[ids[0]]]


def test_an_empty_list_is_one_empty_page(client: Client) -> None:
    for kind in ("inputs", "jobs"):
        assert list(pages(client, f"/v1/{kind}")) == [[]]


def test_jobs_are_paged_and_filtered_and_links_keep_the_filter(client: Client) -> None:
    ids = [make_job(client, data=items("a"))["id"] for _ in range(5)]
    gated = make_job(client, "gated", data=[{}])["id"]
    client.post(f"/v1/jobs/{ids[1]}/cancel")
    client.post(f"/v1/jobs/{ids[3]}/cancel")
    input_id = client.get(f"/v1/jobs/{ids[0]}").json["input_id"]
    second = make_job(client, input_id=input_id)["id"]

    for query, expected in {
        "limit=3": [[second, gated, ids[4]], [ids[3], ids[2], ids[1]], [ids[0]]],
        "status=canceled&limit=1": [[ids[3]], [ids[1]]],
        "status=queued&model=moody&limit=3": [[second, ids[4], ids[2]], [ids[0]]],
        "model=gated": [[gated]],
        "model=nothing-by-this-name": [[]],
        f"input_id={input_id}&limit=1": [[second], [ids[0]]],
    }.items():
        assert list(pages(client, f"/v1/jobs?{query}")) == expected, query
    assert client.get("/v1/jobs?limit=1").json["data"] == [client.get(f"/v1/jobs/{second}").json]
