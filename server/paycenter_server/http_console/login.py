"""Login, logout, and the preferences that every viewer has: language, colours."""

from __future__ import annotations

from aiohttp import web

from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.sessions import LIFE_SECONDS
from paycenter_server.http_console.security import cookie_name, is_https, local_path
from paycenter_server.http_console.texts import LANGUAGES
from paycenter_server.http_console.view import View, redirect, view_of
from paycenter_server.services.sessions import LoginProblem

_YEAR = 365 * 86_400
_PROBLEMS = {
    LoginProblem.WRONG: (401, "The name or the password is wrong."),
    LoginProblem.TOO_MANY: (429, "Too many failed logins. Try again in five minutes."),
}


def add_routes(app: web.Application) -> None:
    """Serve these pages."""
    app.router.add_get("/login", _login_page)
    app.router.add_post("/login", _login)
    app.router.add_post("/logout", _logout)
    app.router.add_post("/preferences", _preferences)
    app.router.add_get("/password", _password_page)
    app.router.add_post("/password", _change_password)


async def _login_page(request: web.Request) -> web.StreamResponse:
    view = view_of(request)
    if view.session is not None:
        return redirect(local_path(view.query.get("next", "/")))
    return _form(view, 200, "", view.query.get("name", ""))


def _form(view: View, status: int, problem: str, name: str) -> web.Response:
    wanted = local_path(view.query.get("next", "/"))
    return view.render("login.html", status=status, problem=problem, name=name[:64], wanted=wanted)


async def _login(request: web.Request) -> web.StreamResponse:
    view, form = view_of(request), await request.post()
    given = {name: str(form.get(name, ""))[:1000] for name in ("name", "password", "code", "next")}
    result = await view.parts.login_sessions.login(
        given["name"].strip(), given["password"].strip(), given["code"].strip(), request.remote or "",
        request.headers.get("User-Agent", ""),
    )  # fmt: skip
    if isinstance(result, LoginProblem):
        status, problem = _PROBLEMS[result]
        return _form(view, status, problem, given["name"])
    response = redirect(local_path(given["next"] or "/"))
    response.set_cookie(
        cookie_name(request), result, max_age=LIFE_SECONDS, path="/", httponly=True, samesite="Lax", secure=is_https(request)
    )
    return response


async def _logout(request: web.Request) -> web.StreamResponse:
    view = view_of(request)
    await view.parts.login_sessions.logout(request.cookies.get(cookie_name(request), ""))
    response = redirect("/login")
    response.del_cookie(cookie_name(request), path="/", secure=is_https(request), httponly=True, samesite="Lax")
    return response


async def _password_page(request: web.Request) -> web.StreamResponse:
    """The form for an own password. Who was given one must change it before anything else."""
    return _password_form(view_of(request), 200, "")


def _password_form(view: View, status: int, problem: str) -> web.Response:
    return view.render("password.html", status=status, problem=problem)


async def _change_password(request: web.Request) -> web.StreamResponse:
    """Change the password. It ends every session of the operator, so the login follows."""
    view, form = view_of(request), await request.post()
    current, new, again = (str(form.get(name, ""))[:1000] for name in ("current_password", "new_password", "new_again"))
    if new != again:
        return _password_form(view, 400, view.t("The two new passwords differ."))
    try:
        await view.parts.operators.change_own_password(view.caller, current, new)
    except PayCenterError as error:
        if error.reason is not Reason.INVALID_FIELD:
            raise
        return _password_form(view, 400, "; ".join(f"{item.field}: {item.description}" for item in error.violations))
    return redirect("/login")


async def _preferences(request: web.Request) -> web.StreamResponse:
    form = await request.post()
    response = redirect(local_path(str(form.get("next", "/"))))

    def keep(name: str, value: str) -> None:
        response.set_cookie(name, value, max_age=_YEAR, path="/", samesite="Lax", secure=is_https(request), httponly=True)

    if form.get("language") in LANGUAGES:
        keep("language", str(form["language"]))
    if form.get("theme") in ("auto", "light", "dark"):
        keep("theme", str(form["theme"]))
    return response
